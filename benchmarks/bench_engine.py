"""The engine benchmark: ours and the peers by turns, in one run. Owns: the order of things and the JSON it leaves.

Does not: load our engine or a peer itself, or say what is good enough (engine_cases does).
"""

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import engine_cases, machine, report, samples
from benchmarks.engine_cases import BATCH, LONG_TOKENS, NEW_TOKENS, SLOW_NEW_TOKENS, START_LIMIT_S, Lab
from benchmarks.own_engine import Base, OwnEngine
from benchmarks.own_server import measure_server
from benchmarks.peers import fixtures
from benchmarks.peers.process import Launch, Peer, PeerDied, started, versions
from checkpoints import names, tokenizer
from cluster.config import MIB, ServeConfig
from lorajax.config import EngineConfig
from lorajax.errors import LorajaxError
from lorajax.spec import ModelSpec

_SLOW_ROUNDS = 2
"""Rounds of vLLM with adapters, which takes many seconds for one."""

type Turn = Callable[[Peer, Lab], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """One peer process and what it does in a round."""

    launch: Launch
    packages: tuple[str, ...]
    """Of its environment, named in the result."""
    num_rounds: int
    cases: Mapping[str, tuple[str | None, ...]]
    """Series -> adapters over the batch."""
    measured: str
    """"tokens_per_s" of the whole batch, or "decode" for a peer that is given few tokens."""

    def take(self, peer: Peer, lab: Lab) -> None:
        """One round of this peer."""
        for series, adapters in self.cases.items():
            answer = peer.measure(adapters)
            rate = BATCH / answer["step_median_s"] if self.measured == "decode" else answer["tokens_per_s"]
            lab.series[series].append(rate)


def run(*, model: Path, peers: Sequence[str], peers_dir: Path, rounds: int, seed: int, out: Path) -> None:
    """Measure, print the table, write `engine-<device>.json` into `out`."""
    start_s = time.perf_counter()
    # So that no stopped peer stays behind.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="lorajax-bench-") as scratch:
        bench = _Bench(model=model, scratch=Path(scratch), rounds=rounds, seed=seed)
        all_turns = list(_turns(peers, peers_dir, Path(scratch), rounds))
        for problem in dict.fromkeys(turns.launch.problem for turns in all_turns if turns.launch.problem):
            _say(problem)
        result = bench.run([turns for turns in all_turns if not turns.launch.problem])
    result["took_s"] = time.perf_counter() - start_s
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"engine-{str(result['device']).lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(report.engine_table(result), path, sep="\n\n")


def _turns(peers: Sequence[str], folder: Path, scratch: Path, rounds: int) -> Iterator[Turns]:
    """The peer processes for the peers asked for. vLLM runs twice: adapters slow its base down."""
    adapters = {f"r{rank}": scratch / f"r{rank}" for rank in fixtures.RANKS}
    vllm = Launch(
        module="vllm_cpu",
        python=folder / "vllm/bin/python",
        model=folder / "model",
        prompts=scratch / "prompts.json",
        adapters={},
        new_tokens=NEW_TOKENS,
    )
    slow = partial(replace, adapters=adapters, new_tokens=SLOW_NEW_TOKENS)
    mixed = tuple(adapters)
    if "vllm" in peers:
        packages = ("vllm-cpu", "torch")
        yield Turns(
            launch=vllm, packages=packages, num_rounds=rounds, cases={"vllm base": (None,)}, measured="tokens_per_s"
        )
        yield Turns(
            launch=slow(vllm),
            packages=packages,
            num_rounds=min(rounds, _SLOW_ROUNDS),
            cases={"vllm r8": ("r8",), "vllm mixed": mixed},
            measured="decode",
        )
    if "hf" in peers:
        yield Turns(
            launch=slow(replace(vllm, module="hf_peft", python=folder / "hf/bin/python")),
            packages=("transformers", "peft", "torch"),
            num_rounds=1,  # with its warm-up three batches, and a prefill of many seconds in each
            cases={"hf mixed": mixed},
            measured="decode",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """One run of the benchmark."""

    model: Path
    scratch: Path
    rounds: int
    seed: int

    def run(self, all_turns: Sequence[Turns]) -> dict[str, object]:
        """All of it; the result as JSON."""
        _say("loading the base, writing adapters and prompts")
        config = ServeConfig(model=str(self.model), engine=_engine_config())
        model = Base.load(self.model, config.engine.dtype)
        prompts, long_prompt = self._write_work(model.spec)
        with contextlib.ExitStack() as stack:
            _say("compiling")
            lab = _lab(model, config, self.scratch, prompts, long_prompt)
            for own in (lab.engine, *lab.plain):
                stack.callback(own.engine.stop)
            _say("random batches")
            engine_cases.random_batches(lab, self.seed)
            _say("starting lorajax serve")
            self._measure_server(lab, config, model)
            peers = [(turns, peer) for turns in all_turns if (peer := self._loaded(turns, stack)) is not None]
            self._rounds(lab, peers)
        return self._result(lab, [turns for turns, _ in peers])

    def _loaded(self, turns: Turns, stack: contextlib.ExitStack) -> Peer | None:
        """A peer that waits for its turns; None where it cannot load. One after another: their threads spin."""
        name = turns.launch.module
        _say(f"loading {name}")
        peer = stack.enter_context(started(turns.launch, self.scratch / f"{name}-{turns.launch.new_tokens}.log"))
        try:
            peer.pause()
        except PeerDied as error:
            _say(f"left out: {error}")
            return None
        return peer

    def _write_work(self, spec: ModelSpec) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
        """The adapters and prompts that everyone gets; also a long prompt."""
        parts = [part for weight in names.weights(spec) for part in weight.parts]
        shapes = {part.hf.removesuffix(".weight"): part.shape for part in parts if part.is_transposed}
        linear = {name: (shape[0], shape[1]) for name, shape in shapes.items() if name.endswith(fixtures.TARGETS)}
        for rank in fixtures.RANKS:
            fixtures.write_adapter(self.scratch / f"r{rank}", linear, rank, self.seed)
        encoder, _ = tokenizer.load(self.model)
        prompts = [tuple(encoder.encode(text)) for text in fixtures.prompts(BATCH, self.seed)]
        (self.scratch / "prompts.json").write_text(json.dumps(prompts))
        everything = [token for prompt in prompts for token in prompt]
        return prompts, tuple((everything * LONG_TOKENS)[:LONG_TOKENS])

    def _measure_server(self, lab: Lab, config: ServeConfig, model: Base) -> None:
        folders = {name: self.scratch / name for name in lab.adapters}
        try:
            start_s, resident = asyncio.run(
                measure_server(self.model, folders, lab.prompts, self.scratch / "serve.log")
            )
        except LorajaxError as error:
            _say(f"start and memory are left out: {error}")
            return
        pools = config.engine.kv_bytes + config.engine.adapter_bytes
        lab.series["start s"].append(start_s)
        lab.series["start limit s"].append(START_LIMIT_S)
        lab.series["resident MiB"].append(resident / MIB)
        lab.series["weights and pools MiB"].append((model.num_bytes + pools) / MIB)

    def _rounds(self, lab: Lab, peers: Sequence[tuple[Turns, Peer]]) -> None:
        """Every second round runs backwards, so that what drifts drifts both ways; one round first warms up."""
        for case in engine_cases.ROUND:
            case(replace(lab, series=defaultdict(list)))
        for number in range(self.rounds):
            _say(f"round {number + 1} of {self.rounds}")
            turns = [partial(each.take, peer, lab) for each, peer in peers if number < each.num_rounds]
            own = [partial(case, lab) for case in engine_cases.ROUND]
            order = [*own[:1], *turns, *own[1:]]
            for turn in order if number % 2 == 0 else reversed(order):
                turn()

    def _result(self, lab: Lab, all_turns: Sequence[Turns]) -> dict[str, object]:
        peer_versions: dict[str, str] = {}
        for turns in all_turns:
            peer_versions |= versions(turns.launch.python, turns.packages)
        judged = [samples.judged(claim, lab.series) for claim in engine_cases.CLAIMS]
        return {
            **machine.facts(peer_versions),
            "model": self.model.name,
            "dtype": _engine_config().dtype,
            "kernels": lab.engine.kernels,
            "seed": self.seed,
            "rounds": self.rounds,
            "batch": BATCH,
            "new_tokens": NEW_TOKENS,
            "slow_new_tokens": SLOW_NEW_TOKENS,
            "claims": [row for row in judged if row is not None],
            "series": dict(lab.series),
        }


def _engine_config() -> EngineConfig:
    """What `lorajax serve` has when nothing is said."""
    return EngineConfig(kv_bytes=256 * MIB, adapter_bytes=256 * MIB, host_adapter_bytes=1024 * MIB)


def _lab(
    model: Base, config: ServeConfig, scratch: Path, prompts: Sequence[tuple[int, ...]], long_prompt: tuple[int, ...]
) -> Lab:
    """Our engines, started, the adapters pinned on the one that has room for them."""
    two_pages = 2 * model.spec.adapter_page_bytes(2)
    without = replace(config, engine=replace(config.engine, adapter_bytes=two_pages))
    before, engine, after = (OwnEngine(model, each) for each in (without, config, without))
    adapters = {f"r{rank}": engine.read(scratch / f"r{rank}") for rank in fixtures.RANKS}
    for adapter in adapters.values():
        engine.engine.add_adapter(adapter, None, pinned=True)
    return Lab(engine=engine, plain=(before, after), adapters=adapters, prompts=prompts, long_prompt=long_prompt)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
