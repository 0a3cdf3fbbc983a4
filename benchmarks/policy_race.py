"""The policies benchmark: the same rising load on the same three hosts under each placement policy.

Owns: the cluster, the levels of load, what is read off them, and the JSON. The baselines are in policies.py, the
requests in open_loop.py. JSON has null where the 95th percentile was infinite: so many requests failed.
"""

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import grpc
import numpy as np

from benchmarks import machine, open_loop
from benchmarks.local_cluster import launched, write_config
from cluster import serving_pb2, serving_pb2_grpc
from tests import tiny
from tests.multihost import rig

POLICIES = {
    "ours": "ours",
    "loraserve": "loraserve",
    "random": "benchmarks.policies:random",
    "contiguous": "benchmarks.policies:contiguous",
    "full replication": "benchmarks.policies:replicated",
}
RANKS = (8, 16, 32, 64, 128)
HOSTS = 3
_COPIES = 6
"""Adapters of each rank."""
_WARM_S, _LOOK_S = 4.0, 0.5
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_ENGINE = {
    "kv_bytes": "32MiB",
    "adapter_bytes": "10MiB",  # half of all adapters: what a host is not asked for does not stay on its device
    "max_sequences": 8,
    "max_batch_tokens": 256,
}
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What every policy runs."""

    folder: Path
    adapters: dict[str, Path]
    rates: Sequence[float]
    level_s: float
    slo_s: float
    seed: int
    points: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What one policy did at one load."""

    rate: float
    p95_s: float
    median_s: float
    num_requests: int
    failed: Mapping[str, int]
    """By gRPC's codes."""
    held_bytes: float
    """Of adapters, over all hosts, in the mean over the level."""
    is_within: bool


def run(
    *, rates: Sequence[float], level_s: float, slo_s: float, rounds: int, seed: int, points: Path | None, out: Path
) -> None:
    """Race the policies, print the table, write `policies.json` into `out`."""
    with tempfile.TemporaryDirectory(prefix="lorajax-policies-") as scratch:
        folder = Path(scratch)
        rig.write_model(folder / "model")
        race = Race(
            folder=folder,
            adapters=_write_adapters(folder / "adapters"),
            rates=rates,
            level_s=level_s,
            slo_s=slo_s,
            seed=seed,
            points=points.absolute() if points else folder / "points.json",
        )
        if points is None:
            _profile(race)
        costs = json.loads(race.points.read_text())
        found = _rounds(race, rounds)
    common = _sustained(found["ours"])
    result = machine.facts({}) | {
        "hosts": HOSTS,
        "adapters": len(RANKS) * _COPIES,
        "ranks": RANKS,
        "zipf": open_loop.ZIPF,
        "shift_s": open_loop.SHIFT_S,
        "level_s": level_s,
        "slo_s": slo_s,
        "rounds": rounds,
        "seed": seed,
        "operating_points": costs,
        "common_rate": common,
        "rows": [_row(name, levels, common) for name, levels in found.items()],
        "levels": {name: [_as_json(level) for level in levels] for name, levels in found.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "policies.json"
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    _show(result)
    print(path)


def _write_adapters(folder: Path) -> dict[str, Path]:
    """By name; neighbours differ in rank."""
    adapters = {}
    for number in range(len(RANKS) * _COPIES):
        rank = RANKS[number % len(RANKS)]
        name = f"rank{rank}-{number // len(RANKS)}"
        config: dict[str, object] = {"r": rank, "lora_alpha": 2 * rank, "target_modules": _TARGETS}
        tiny.write_adapter(folder / name, "llama", number, config)
        adapters[name] = folder / name
    return adapters


def _rounds(race: Race, rounds: int) -> dict[str, list[Level]]:
    """The levels of each policy, medians over the rounds; all go at least as far as ours, which begins each round."""
    found: dict[str, list[list[Level]]] = {name: [] for name in POLICIES}
    first, *others = POLICIES
    for number in range(rounds):
        turn = number % len(others)
        found[first].append(_raced(race, number, first, 0.0))
        for name in (*others[turn:], *others[:turn]):
            found[name].append(_raced(race, number, name, found[first][-1][-1].rate))
    return {name: [_merged(same, race.slo_s) for same in zip(*raced, strict=False)] for name, raced in found.items()}


def _merged(levels: Sequence[Level], slo_s: float) -> Level:
    p95_s = float(np.median([level.p95_s for level in levels]))
    return replace(
        levels[0],
        p95_s=p95_s,
        median_s=float(np.median([level.median_s for level in levels])),
        num_requests=sum(level.num_requests for level in levels),
        failed=sum((Counter(level.failed) for level in levels), Counter()),
        held_bytes=float(np.mean([level.held_bytes for level in levels])),
        is_within=p95_s <= slo_s,
    )


def _raced(race: Race, number: int, name: str, until_rate: float) -> list[Level]:
    """The levels of one policy in one round: up to the first that it misses, and at least up to `until_rate`."""
    config = _written(race, f"{name}-{number}", {"policy": POLICIES[name], "operating_points": str(race.points)})
    with launched(config, config.with_name("said"), environment={"PYTHONPATH": str(_ROOT)}) as cluster:
        return asyncio.run(_levels(race, name, cluster.target, until_rate))


def _profile(race: Race) -> None:
    """Measure what a rank costs here: the policies that look at it are given nothing better in earnest, either."""
    config = _written(race, "profile", {})
    flags = ("--config", str(config), "--out", str(race.points), "--quick")
    sizes = {"--prompt-tokens": open_loop.PROMPT_TOKENS, "--new-tokens": open_loop.NEW_TOKENS}
    means = (word for flag, (low, high) in sizes.items() for word in (flag, str((low + high) // 2)))
    command = (sys.executable, "-m", "lorajax", "profile", *flags, *means)
    subprocess.run(command, check=True, capture_output=True)


def _written(race: Race, name: str, placement: dict[str, object]) -> Path:
    """The configuration of one policy's cluster, in a folder of its own."""
    folder = race.folder / name.replace(" ", "-")
    folder.mkdir()
    tables = {
        "model": {"path": str(race.folder / "model"), "dtype": "float32"},
        "cluster": {"replicas": HOSTS, "transfer": "stream", "coordinator": "127.0.0.1:0", "state_dir": "state"},
        "adapters": {"roots": [str(race.folder / "adapters")]},
        "adapters.preload": {name: str(path) for name, path in race.adapters.items()},
        "engine": _ENGINE,
        "placement": {"interval_s": 3} | placement,
        "slo": {"ttft_p95_s": race.slo_s},
    }
    return write_config(folder / "cluster.toml", tables)


async def _levels(race: Race, name: str, target: str, until_rate: float) -> list[Level]:
    levels: list[Level] = []
    async with grpc.aio.insecure_channel(target) as channel:
        warm = open_loop.trace(list(race.adapters), race.rates[0], _WARM_S, 0.0, race.seed)
        await open_loop.answers(channel, list(warm), _timeout_s(race))
        for number, rate in enumerate(race.rates):
            level = await _level(race, channel, rate, _WARM_S + number * race.level_s)
            levels.append(level)
            print(_line(name, level), flush=True)
            if not level.is_within and rate >= until_rate:
                break
    return levels


async def _level(race: Race, channel: grpc.aio.Channel, rate: float, began_s: float) -> Level:
    arrivals = list(open_loop.trace(list(race.adapters), rate, race.level_s, began_s, race.seed))
    async with _watched(channel) as held_bytes:
        answers = await open_loop.answers(channel, arrivals, _timeout_s(race))
    first_s = [answer.first_s for answer in answers]
    p95_s = float(np.quantile(first_s, 0.95, method="higher"))
    return Level(
        rate=rate,
        p95_s=p95_s,
        median_s=float(np.quantile(first_s, 0.5, method="higher")),
        num_requests=len(first_s),
        failed=Counter(answer.code for answer in answers if answer.code != "OK"),
        held_bytes=float(np.mean(held_bytes)),
        is_within=p95_s <= race.slo_s,
    )


def _timeout_s(race: Race) -> float:
    return 10 * race.slo_s


@contextlib.asynccontextmanager
async def _watched(channel: grpc.aio.Channel) -> AsyncIterator[list[int]]:
    """Bytes of adapters in the memory of all hosts, again and again while the block runs."""
    stub = serving_pb2_grpc.AdaptersStub(channel)
    held_bytes: list[int] = []

    async def watch() -> None:
        while True:
            reply = await stub.List(serving_pb2.ListAdaptersRequest())
            held_bytes.append(sum(info.bytes * len(info.residency) for info in reply.adapters))
            await asyncio.sleep(_LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        yield held_bytes
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _sustained(levels: Sequence[Level]) -> float:
    """The highest load up to which every level was within the target; 0 where none was."""
    highest = 0.0
    for level in levels:
        if not level.is_within:
            break
        highest = level.rate
    return highest


def _row(name: str, levels: Sequence[Level], common: float) -> dict[str, object]:
    """What a policy comes to; its bytes are those at the load that ours sustains, where all were measured."""
    at_common = next((level for level in levels if level.rate == common), levels[0])
    return {
        "policy": name,
        "sustained_rate": _sustained(levels),
        "p95_s": _finite(at_common.p95_s),
        "held_bytes": at_common.held_bytes,
        "held_bytes_x_rate": at_common.held_bytes * at_common.rate,
    }


def _as_json(level: Level) -> dict[str, object]:
    return asdict(level) | {"p95_s": _finite(level.p95_s), "median_s": _finite(level.median_s)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _line(name: str, level: Level) -> str:
    return (
        f"{name:<18}{level.rate:7.1f} requests/s"
        f"  p95 {level.p95_s * 1e3:7.0f} ms  median {level.median_s * 1e3:6.0f} ms"
        f"  failed {sum(level.failed.values())} of {level.num_requests}  holds {level.held_bytes / 2**20:.1f} MiB"
    )


def _show(result: dict[str, object]) -> None:
    rows, common = result["rows"], result["common_rate"]
    print(f"\n{'policy':<18}{'sustains':>12}{f'p95 at {common:g}/s':>16}{'holds there':>14}{'x load':>14}")
    assert isinstance(rows, list)
    for row in rows:
        p95 = "-" if row["p95_s"] is None else f"{row['p95_s'] * 1e3:.0f} ms"
        held, product = row["held_bytes"] / 2**20, row["held_bytes_x_rate"] / 2**20
        print(f"{row['policy']:<18}{row['sustained_rate']:>10.1f}/s{p95:>16}{held:>10.1f} MiB{product:>10.0f} MiB/s")
