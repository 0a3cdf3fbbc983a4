"""The measuring of `lorajax profile`. Owns: an engine as `lorajax serve` builds it, random adapters for it, the trials.

Does not: say what follows from them (profile_points.py), print, or write a file.
"""

import asyncio
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import grpc
import jax.numpy as jnp
import numpy as np

from checkpoints import base
from cluster import device
from cluster.closed_loop import measure
from cluster.config import ServeConfig
from cluster.peer import Peer, pull
from cluster.profile_points import Kind, Profile, ProfileConfig, Trial, levels, name, wants_more
from cluster.tickets import Reply
from cluster.tickets import Request as PrepareRequest
from cluster.view import Adapter
from lorajax.adapter_pages import DTYPES, HostAdapter, LowRank, Module, pack
from lorajax.engine import Engine
from lorajax.errors import Unavailable
from lorajax.runner import PoolSizes, Runner
from lorajax.spec import TARGETS, ModelSpec, Request, Sampling, Version, num_rank_pages

_SEED = 0
_NUM_FETCHES = 3
_B_SCALE = 0.01
"""Small, so that the outputs stay finite."""

_log = logging.getLogger("lorajax")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A running engine and its adapters."""

    engine: Engine
    vocab_size: int
    versions: Mapping[int, Sequence[Version]]
    """By rank, as many of each."""

    def versions_of(self, kind: Kind) -> Sequence[Version]:
        """As many adapters for a mix as for one rank, its ranks by turns; none for the base."""
        own = [self.versions[rank] for rank in kind if rank]
        return list(chain(*zip(*(versions[: len(versions) // len(own)] for versions in own), strict=True)))


def run(config: ProfileConfig) -> Profile:
    """Measure on this machine, in this process: up to `trial_s` and a warm-up for each kind and level.

    Raises: ValueError naming the flag where the adapters find no room; LorajaxError where the model cannot be served.
    """
    serve, spec = unhindered(config.serve), base.read_spec(Path(config.serve.model))
    num_versions = _num_versions(config, PoolSizes.of(spec, serve.engine).num_adapter_pages - 1)
    runner = compiled(serve, spec)
    adapters = {rank: random_adapter(spec, rank, DTYPES[serve.engine.dtype]) for rank in config.ranks}
    engine = Engine(spec, serve.engine, runner, read_adapter=not_read, on_failure=lambda: None)
    engine.start()
    try:
        versions = {rank: add_versions(engine, adapter, num_versions) for rank, adapter in adapters.items()}
        trials = _trials(config, _Subject(engine=engine, vocab_size=spec.vocab_size, versions=versions))
    finally:
        engine.stop()
    _progress("adapters from another host, over loopback")
    fetch_bytes_per_s = asyncio.run(loopback_bytes_per_s(adapters[max(adapters)]))
    return Profile(slo=config.slo, trials=trials, fetch_bytes_per_s=fetch_bytes_per_s)


def unhindered(serve: ServeConfig) -> ServeConfig:
    """Room for the longest queue of a trial; and for adapters that share their arrays, each of which would count."""
    num_queued = max(serve.engine.max_queue, 2 * serve.engine.max_sequences)
    return replace(serve, engine=replace(serve.engine, max_queue=num_queued, host_adapter_bytes=2**62))


def compiled(serve: ServeConfig, spec: ModelSpec) -> Runner:
    """The device half with its weights, and every program compiled."""
    engine, path = serve.engine, Path(serve.model)
    _progress(f"loading weights of {path.name}")
    layout = device.layout(spec, engine.dtype, engine.tensor_parallel)
    weights = base.load(path, spec, lambda name: layout.sharding(layout.weight(name)), jnp.dtype(engine.dtype))
    runner = device.make_runner(serve, spec, layout, weights)
    runner.compile(_progress)
    return runner


def _num_versions(config: ProfileConfig, num_pages: int) -> int:
    """Adapters of each rank: as many as can be on the device together, even, so that a mix has as many as one rank.

    With one alone, all would share its pages in a step, and a mix of two would seem to cost as much as the larger one.
    """
    rank = max(config.ranks)
    if num_pages < 2 * num_rank_pages(rank):
        raise ValueError(
            f"--adapter-bytes holds {num_pages} pages, and two adapters of rank {rank} take {2 * num_rank_pages(rank)};"
            " raise it, or leave out the largest of --ranks"
        )
    return max(2, min(num_pages // num_rank_pages(rank), config.serve.engine.max_sequences) // 2 * 2)


def random_adapter(model: ModelSpec, rank: int, dtype: np.dtype) -> HostAdapter:
    """A random one of this rank in every layer."""
    chance = np.random.default_rng((_SEED, rank))

    def normal(rows: int, columns: int) -> np.ndarray:
        return chance.standard_normal((rows, columns), np.float32)

    updates: dict[Module, LowRank] = {}
    for target in TARGETS:
        num_in, num_out = model.widths(target)
        update = LowRank(a=normal(rank, num_in) / np.float32(num_in**0.5), b=normal(num_out, rank), scale=_B_SCALE)
        updates |= {(layer, target): update for layer in range(model.num_layers)}
    return pack(updates, model=model, version=Version(f"{rank:064x}"), dtype=dtype)


def add_versions(engine: Engine, adapter: HostAdapter, num_versions: int) -> Sequence[Version]:
    """Make so many versions of an adapter servable, which share its arrays."""
    versions = [Version(f"{number:032x}{adapter.spec.rank:032x}") for number in range(num_versions)]
    for version in versions:
        engine.add_adapter(replace(adapter, spec=replace(adapter.spec, version=version)), None, pinned=False)
    return versions


def not_read(_: Path, version: Version) -> HostAdapter:
    """Stands for the reader of an engine whose adapters have no store."""
    raise AssertionError(f"adapter {version[:12]} has no store")


async def _not_prepared(_: PrepareRequest) -> Reply:
    raise Unavailable("this process knows no collectives")


def _trials(config: ProfileConfig, subject: _Subject) -> Mapping[Kind, Sequence[Trial]]:
    """Level by level, so that those of one level, which are compared, come one after the other."""
    trials: dict[Kind, list[Trial]] = {kind: [] for kind in config.kinds}
    numbers = count()
    for level in levels(config.serve.engine.max_sequences):
        for kind, done in trials.items():
            if wants_more(done, config.slo):
                request = _requests(config, subject, kind, numbers)
                done.append(measure(subject.engine, request, level, config.trial_s))
                _progress(f"{name(kind)}, {done[-1]}")
    return trials


def _requests(config: ProfileConfig, subject: _Subject, kind: Kind, numbers: "count[int]") -> Callable[[int], Request]:
    """What streams ask: the same of every kind, for seeds are; each stream keeps its adapter."""
    chance, versions = np.random.default_rng(_SEED), subject.versions_of(kind)

    def about(num_tokens: int) -> int:
        return int(chance.integers(num_tokens // 2, num_tokens + num_tokens // 2, endpoint=True))

    def request(stream: int) -> Request:
        prompt = chance.integers(subject.vocab_size, size=about(config.prompt_tokens)).tolist()
        return Request(
            id=str(next(numbers)),
            prompt=tuple(prompt),
            sampling=Sampling(max_tokens=about(config.new_tokens), ignore_eos=True),
            adapters=((versions[stream % len(versions)], 1.0),) if versions else (),
        )

    return request


async def loopback_bytes_per_s(adapter: HostAdapter) -> float:
    """How fast an adapter comes over loopback; the median of a few times."""

    async def export(_: Version) -> HostAdapter:
        return adapter

    spec = adapter.spec
    known = Adapter(version=spec.version, rank=spec.rank, num_bytes=spec.num_bytes, path="")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Peer(export, _not_prepared).handlers(),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        took_s = []
        for _ in range(_NUM_FETCHES):
            start_s = time.perf_counter()
            await pull(address, known)
            took_s.append(time.perf_counter() - start_s)
    finally:
        await server.stop(None)
    return spec.num_bytes / statistics.median(took_s)


def _progress(text: str) -> None:
    _log.info("PROGRESS %s", text)
