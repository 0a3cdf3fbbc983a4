"""Step times of our engine, measured. Owns: an engine whose every step is timed, and the load it is kept under.

Does not: fit a model (fit.py). A step lasts until the next one begins, so what the engine does in between counts.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.simulator.device import StepWork, attended_pairs
from benchmarks.simulator.fit import Step
from checkpoints import base
from cluster import profile
from cluster.closed_loop import measure
from cluster.config import ServeConfig
from cluster.profile_points import levels
from lorajax.adapter_pages import DTYPES, HostAdapter
from lorajax.batch import buckets, fitting
from lorajax.engine import Engine
from lorajax.limits import EngineLimits
from lorajax.plan import Chunk, PageWrite, StepPlan
from lorajax.runner import PoolSizes, Runner
from lorajax.spec import ModelSpec, Request, Sampling, Token, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """What is measured, and under what."""

    serve: ServeConfig
    ranks: tuple[int, ...] = (8, 16, 32, 64, 128)
    adapters_each: int = 4
    """Of each rank."""
    prompt_tokens: int = 64
    """Of a request, at most twice as many."""
    new_tokens: int = 32
    """Likewise."""
    trial_s: float = 2.0
    """How long each number of requests in flight is kept up, for each choice of adapters."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was measured, and the sizes of the engine it was measured on."""

    limits: EngineLimits
    page_bytes: int
    """Of an adapter page."""
    steps: tuple[Step, ...]


class _Timed:
    """A runner that notes every step. Invariant: a step is noted once the next begins with one of its requests."""

    def __init__(self, runner: Runner, limits: EngineLimits, rank_of: Callable[[Version], int]) -> None:
        self.sizes = runner.sizes
        self._runner, self._rank_of = runner, rank_of
        self._buckets = buckets(limits.config)
        self._before: tuple[StepPlan, float] | None = None
        self._began_s = 0.0
        self.steps: list[Step] = []

    def write(self, writes: tuple[PageWrite, ...], adapters: Mapping[Version, HostAdapter]) -> None:
        """Begin a step."""
        self._began_s = time.perf_counter()
        self._runner.write(writes, adapters)

    def run(self, plan: StepPlan) -> dict[str, Token | None]:
        """Carry a step out. The one before lasted until it began, if the engine did not wait in between."""
        if self._before is not None:
            before, began_s = self._before
            if not _ids(before).isdisjoint(_ids(plan)):
                self.steps.append(self._step(before, self._began_s - began_s))
        self._before = (plan, self._began_s) if plan.chunks else None
        return self._runner.run(plan)

    def _step(self, plan: StepPlan, seconds: float) -> Step:
        return Step(
            work=work_of(plan.chunks, self._rank_of),
            shape_tokens=fitting(plan.chunks, self._buckets).num_tokens,
            num_writes=len(plan.writes),
            seconds=seconds,
        )


def work_of(chunks: Sequence[Chunk], rank_of: Callable[[Version], int]) -> StepWork:
    """What a step computes, in numbers. A chunk of one token counts as decoding."""
    prefill: Counter[int] = Counter()
    decode: Counter[int] = Counter()
    for chunk in chunks:
        rank = sum(rank_of(version) for version, _ in chunk.request.adapters)
        (prefill if len(chunk.tokens) > 1 else decode)[rank] += len(chunk.tokens)
    return StepWork(
        prefill_tokens=prefill.total(),
        decode_sequences=decode.total(),
        context_tokens=sum(chunk.start + len(chunk.tokens) for chunk in chunks),
        attended_pairs=sum(attended_pairs(chunk.start, len(chunk.tokens)) for chunk in chunks if len(chunk.tokens) > 1),
        prefill_by_rank=prefill,
        decode_by_rank=decode,
        adapter_ranks=tuple(map(rank_of, {version for chunk in chunks for version, _ in chunk.request.adapters})),
    )


def _ids(plan: StepPlan) -> set[str]:
    return {chunk.request.id for chunk in plan.chunks}


def measured(config: MeasureConfig) -> Measured:
    """Measure on this machine, in this process. Raises: LorajaxError where the model cannot be served."""
    serve, spec = profile.unhindered(config.serve), base.read_spec(Path(config.serve.model))
    dtype = DTYPES[serve.engine.dtype]
    runner = profile.compiled(serve, spec)
    ranks: dict[Version, int] = {}
    timed = _Timed(runner, _limits(serve, spec), ranks.__getitem__)
    engine = Engine(spec, serve.engine, timed, read_adapter=profile.not_read, on_failure=lambda: None)
    engine.start()
    try:
        for rank in config.ranks:
            adapter = profile.random_adapter(spec, rank, dtype)
            ranks |= dict.fromkeys(profile.add_versions(engine, adapter, config.adapters_each), rank)
        _load(config, engine, spec.vocab_size, ranks)
    finally:
        engine.stop()
    return Measured(
        limits=_limits(config.serve, spec),
        page_bytes=spec.adapter_page_bytes(dtype.itemsize),
        steps=tuple(timed.steps),
    )


def _limits(serve: ServeConfig, spec: ModelSpec) -> EngineLimits:
    sizes = PoolSizes.of(spec, serve.engine)
    return EngineLimits(
        config=serve.engine,
        num_kv_pages=sizes.num_kv_pages,
        num_adapter_pages=sizes.num_adapter_pages,
        max_model_len=spec.max_model_len,
        stop_token_ids=spec.stop_token_ids,
    )


def _load(config: MeasureConfig, engine: Engine, vocab_size: int, ranks: Mapping[Version, int]) -> None:
    """Every number of requests in flight, of the base alone, of each rank alone, and of all."""
    chance, numbers = np.random.default_rng(config.seed), count()

    def about(num_tokens: int) -> int:
        return int(chance.integers(2, 2 * num_tokens))

    choices: list[Sequence[Version]] = [[one for one in ranks if ranks[one] == rank] for rank in config.ranks]
    for num_requests in levels(config.serve.engine.max_sequences):
        for versions in ([], *choices, list(ranks)):

            def request(_: int, versions: Sequence[Version] = versions) -> Request:
                prompt = chance.integers(vocab_size, size=about(config.prompt_tokens)).tolist()
                return Request(
                    id=str(next(numbers)),
                    prompt=tuple(prompt),
                    sampling=Sampling(max_tokens=about(config.new_tokens), ignore_eos=True),
                    adapters=((versions[int(chance.integers(len(versions)))], 1.0),) if versions else (),
                )

            measure(engine, request, num_requests, config.trial_s)
