"""The policies benchmark: the same rising load on the same three hosts under each system.

Owns: the levels of load, what is read off them, and the JSON. The systems are in baselines/systems.py, the requests'
way is that of drive/. JSON has null where the 95th percentile was infinite: so many requests failed.
"""

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.baselines.systems import SYSTEMS
from benchmarks.drive.bed import Bed, on_cores, running
from benchmarks.drive.open_loop import Sending
from benchmarks.drive.run import Drive, drive
from benchmarks.outcomes.statistics import Slo, percentiles, summary
from benchmarks.workloads import settings
from benchmarks.workloads.arrivals import Ints
from benchmarks.workloads.records import Workload
from benchmarks.workloads.setting import Part
from cluster import operating_points

_RANKS = (8, 16, 32, 64, 128)
_ADAPTERS = 30
_PROMPT_TOKENS, _NEW_TOKENS = (64, 384), (4, 16)
"""From and to."""
_WARM_S = 4.0
_ENGINE = {
    "kv_bytes": "32MiB",
    "adapter_bytes": "10MiB",  # half of all adapters: what a host is not asked for does not stay on its device
    "max_sequences": 8,
    "max_batch_tokens": 256,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is raced."""

    systems: Sequence[str]
    """All others go at least as far as the first, and are shown at the load that it sustains."""
    rates: Sequence[float]
    """Of the levels, rising."""
    level_s: float
    slo_s: float
    rounds: int
    seed: int
    hosts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What every system runs."""

    bed: Bed
    asked: Asked
    points: Path

    def level(self, rate: float, begins_s: float, lasts_s: float) -> Workload:
        """A part of the race at this rate. Popularity shifts as the whole race goes on, whatever the rate."""
        whole_s = _WARM_S + len(self.asked.rates) * self.asked.level_s
        found = _workload(rate, whole_s, self.asked.seed)
        arrivals = tuple(
            replace(one, at_s=one.at_s - begins_s)
            for one in found.arrivals
            if begins_s <= one.at_s < begins_s + lasts_s
        )
        return replace(found, arrivals=arrivals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What one system did at one load."""

    rate: float
    p95_s: float
    median_s: float
    num_requests: int
    failed: Mapping[str, int]
    """By gRPC's codes."""
    held_bytes: float
    """Of adapters, over all hosts, in the mean over the level."""
    is_within: bool


def run(asked: Asked, points: Path | None, out: Path) -> None:
    """Race the systems, print the table, write `policies.json` into `out`; without operating points, measure them."""
    with tempfile.TemporaryDirectory(prefix="lorajax-policies-") as scratch:
        folder = Path(scratch)
        race = Race(
            bed=replace(
                Bed.tiny(folder, _workload(1.0, 1.0, asked.seed).ranks, _ENGINE, asked.slo_s), num_hosts=asked.hosts
            ),
            asked=asked,
            points=points.absolute() if points else folder / "points.json",
        )
        if points is None:
            _profile(race)
        costs = asdict(operating_points.read(race.points))
        found = _rounds(race)
    common, about = _sustained(found[asked.systems[0]]), _workload(1.0, 1.0, asked.seed).facts
    result = machine.facts({}) | {
        "hosts": race.bed.num_hosts,
        "workload": {name: value for name, value in about.items() if name not in ("rate", "duration_s")},
        "level_s": asked.level_s,
        "slo_s": asked.slo_s,
        "rounds": asked.rounds,
        "seed": asked.seed,
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


def _workload(rate: float, duration_s: float, seed: int) -> Workload:
    ranks = ",".join(map(str, _RANKS))
    setting = settings.changed(settings.NAMED["shifting"], adapters=_ADAPTERS, ranks=ranks)
    lengths = Part(f"prompts of {_PROMPT_TOKENS}, answers of {_NEW_TOKENS} tokens", _lengths)
    return replace(setting, lengths=lengths)(rate=rate, duration_s=duration_s, seed=seed)


def _lengths(rows: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
    prompt, new = (random.integers(low, high, len(rows), endpoint=True) for low, high in (_PROMPT_TOKENS, _NEW_TOKENS))
    return prompt, new


def _rounds(race: Race) -> dict[str, list[Level]]:
    """The levels of each system, medians over the rounds; the first begins each round."""
    found: dict[str, list[list[Level]]] = {name: [] for name in race.asked.systems}
    first, *others = race.asked.systems
    for number in range(race.asked.rounds):
        turn = number % max(1, len(others))
        found[first].append(_raced(race, number, first, 0.0))
        for name in (*others[turn:], *others[:turn]):
            found[name].append(_raced(race, number, name, found[first][-1][-1].rate))
    return {
        name: [_merged(same, race.asked.slo_s) for same in zip(*raced, strict=False)] for name, raced in found.items()
    }


def _merged(levels: Sequence[Level], slo_s: float) -> Level:
    p95_s = float(np.median([level.p95_s for level in levels]))
    return replace(
        levels[0],
        p95_s=p95_s,
        median_s=float(np.median([level.median_s for level in levels])),
        num_requests=sum(level.num_requests for level in levels),
        failed=dict(sum((Counter(level.failed) for level in levels), Counter())),
        held_bytes=float(np.mean([level.held_bytes for level in levels])),
        is_within=p95_s <= slo_s,
    )


def _profile(race: Race) -> None:
    """Measure what a rank costs here: the systems that look at it are given nothing better in earnest, either."""
    config = race.bed.write("profile", SYSTEMS["ours"])
    flags = ("--config", str(config), "--out", str(race.points), "--quick")
    sizes = {"--prompt-tokens": _PROMPT_TOKENS, "--new-tokens": _NEW_TOKENS}
    means = (word for flag, (low, high) in sizes.items() for word in (flag, str((low + high) // 2)))
    command = (sys.executable, "-m", "lorajax", "profile", *flags, *means)
    with on_cores({min(os.sched_getaffinity(0))}):  # as a host has
        subprocess.run(command, check=True, capture_output=True)


def _raced(race: Race, number: int, name: str, until_rate: float) -> list[Level]:
    """The levels of one system in one round: up to the first that it misses, and at least up to `until_rate`."""
    config = race.bed.write(f"{name}-{number}", SYSTEMS[name], race.points)
    levels: list[Level] = []
    with running(config, race.bed.num_hosts) as cluster:
        _level(race, cluster.target, race.level(race.asked.rates[0], 0.0, _WARM_S))
        for place, rate in enumerate(race.asked.rates):
            load = race.level(rate, _WARM_S + place * race.asked.level_s, race.asked.level_s)
            levels.append(replace(_level(race, cluster.target, load), rate=rate))
            print(_line(name, levels[-1]), flush=True)
            if not levels[-1].is_within and rate >= until_rate:
                break
    return levels


def _level(race: Race, target: str, workload: Workload) -> Level:
    sending = Sending(timeout_s=10 * race.asked.slo_s, seed=race.asked.seed)
    driven = asyncio.run(drive(workload, Drive(address=target, sending=sending))).run
    found = summary(driven, Slo(ttft_s=race.asked.slo_s))
    first_s = [one.first_s - one.due_s if one.code == "OK" else math.inf for one in driven.outcomes]
    return Level(
        rate=math.nan,
        p95_s=found.tail_ttft_s,
        median_s=percentiles(first_s, (0.5,))[0],
        num_requests=found.num_requests,
        failed=found.failed,
        held_bytes=found.pool.held_bytes,
        is_within=found.is_within,
    )


def _sustained(levels: Sequence[Level]) -> float:
    """The highest load up to which every level was within the target; 0 where none was."""
    highest = 0.0
    for level in levels:
        if not level.is_within:
            break
        highest = level.rate
    return highest


def _row(name: str, levels: Sequence[Level], common: float) -> dict[str, object]:
    """What a system comes to; its bytes are those at the load that the first sustains, where all were measured."""
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
