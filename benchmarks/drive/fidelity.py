"""The fidelity benchmark: is what the simulator says what a real cluster does? Owns: the comparison and its JSON.

The same workload goes to a real local cluster and to a simulated one, for several systems, in rounds. The simulated
hosts of each run are fitted to step records of real hosts under other requests, just before it and just after: the
speed of a machine drifts by more than the goal in the minutes that a round takes.
"""

import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import machine
from benchmarks.baselines.systems import SYSTEMS
from benchmarks.drive.bed import Bed
from benchmarks.drive.calibration import Calibration
from benchmarks.drive.fidelity_rig import TIMEOUT_S, Plan, Seen, calibration, observed, observed_otherwise, setting_of
from benchmarks.outcomes.block import aligned, milliseconds
from benchmarks.outcomes.records import Run
from benchmarks.outcomes.statistics import Slo, Summary, summary
from benchmarks.simulator.cluster import simulate
from benchmarks.simulator.config import SimulationConfig
from benchmarks.simulator.device import Kernels
from benchmarks.simulator.hardware import Hardware
from cluster import operating_points

GOAL = 0.15
"""Largest part by which simulated figures may differ from real ones; also by which ranks must differ to count."""
_TINY_ENGINE = {"kv_bytes": "32MiB", "adapter_bytes": "10MiB", "max_sequences": 8, "max_batch_tokens": 256}
_ENGINE = {"kv_bytes": "256MiB", "adapter_bytes": "150MiB", "max_sequences": 8, "max_batch_tokens": 128}
"""Half of the adapters find room on a device, of the tiny model as of SmolLM2."""
_SIMULATIONS = 5
"""Of each real run, with what steps took falling on other requests; figures are their medians."""
_TPOT_S = 0.2
"""As `[slo] tbt_p95_s` has it."""
_METRICS: Mapping[str, Callable[[Summary], float]] = {
    "median TTFT": lambda found: found.ttft.median if found.ttft else float("nan"),
    "p95 TTFT": lambda found: found.tail_ttft_s,
    "tokens/s": lambda found: found.total_throughput,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is compared."""

    model: Path | None
    """None: a tiny one, made for it."""
    systems: Sequence[str]
    rate: float
    scale: float
    """Of the lengths of conversations."""
    adapters: int
    duration_s: float
    warm_s: float
    calibration_s: float
    rounds: int
    """Of which every figure is the median."""
    seed: int
    hosts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one system."""

    system: str
    metric: str
    reals: Sequence[float]
    """By round, as the simulated ones."""
    simulateds: Sequence[float]

    @property
    def real(self) -> float:
        """Of the median round."""
        return statistics.median(self.reals)

    @property
    def simulated(self) -> float:
        """Of the median round."""
        return statistics.median(self.simulateds)

    @property
    def difference(self) -> float:
        """Of the simulated one, as a part of the real one."""
        return self.simulated / self.real - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """All systems once."""

    seen: Mapping[str, Seen]
    found: Mapping[str, Calibration]
    """The hosts as they were just before each and just after."""


def run(asked: Asked, out: Path) -> bool:
    """Compare, print, write `fidelity.json` (`fidelity-MODEL.json` of another model) into `out`; whether it is near."""
    with tempfile.TemporaryDirectory(prefix="lorajax-fidelity-") as scratch:
        plan = _plan(asked, Path(scratch))
        _say("calibrating")
        before = observed_otherwise(plan, "calibration")
        points = plan.bed.folder / "points.json"
        operating_points.write(points, calibration([before]).hardware.points(Kernels.RANK_EXACT, _slo(plan)))
        rounds = []
        for number in range(asked.rounds):
            found, before = _round(plan, asked.systems, number, points, before)
            rounds.append(found)
        rows = _rows(plan, asked.systems, rounds)
    order = order_of([row for row in rows if row.metric == "p95 TTFT"])
    is_met = all(abs(row.difference) <= GOAL for row in rows) and order.alike == order.pairs
    result = machine.facts({}) | {
        "model": asked.model.name if asked.model else "tiny",
        "asked": asdict(asked) | {"model": str(asked.model.name) if asked.model else None},
        "workload": dict(plan.workload().facts),
        "hosts": plan.bed.num_hosts,
        "engine": dict(plan.bed.engine),
        "fits": [{name: _fit(found) for name, found in one.found.items()} for one in rounds],
        "others_cores": [{name: seen.others for name, seen in one.seen.items()} for one in rounds],
        "utilisation": [{name: _utilisation(seen) for name, seen in one.seen.items()} for one in rounds],
        "rows": [
            asdict(row) | {"real": row.real, "simulated": row.simulated, "difference": row.difference} for row in rows
        ],
        "order": asdict(order),
        "goal": GOAL,
        "is_met": is_met,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / (f"fidelity-{asked.model.name.split('-')[0].lower()}.json" if asked.model else "fidelity.json")
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _show(rows, order, is_met=is_met)
    print(path)
    return is_met


def _plan(asked: Asked, folder: Path) -> Plan:
    setting = setting_of(asked.rate, asked.scale, asked.adapters, asked.seed)
    ranks = setting(duration_s=1.0, seed=asked.seed).ranks
    slo_s = 2.0
    if asked.model is None:
        bed = replace(Bed.tiny(folder, ranks, _TINY_ENGINE, slo_s), num_hosts=asked.hosts)
    else:
        bed = Bed(
            folder=folder,
            model=asked.model.absolute(),
            dtype="bfloat16",
            ranks=ranks,
            engine=_ENGINE,
            num_hosts=asked.hosts,
            ttft_p95_s=slo_s,
        )
    return Plan(
        bed=bed,
        setting=setting,
        duration_s=asked.duration_s,
        warm_s=asked.warm_s,
        calibration_s=asked.calibration_s,
        seed=asked.seed,
    )


def _round(plan: Plan, systems: Sequence[str], number: int, points: Path, before: Seen) -> tuple[Round, Seen]:
    """All systems, one after the other; also what the hosts of the last one did afterwards, as `before` of the next."""
    seen, found = {}, {}
    for name in systems:
        _say(f"real: {name}, round {number + 1}")
        seen[name], after = observed(plan, f"{name}-{number}", SYSTEMS[name], points)
        found[name] = calibration((before, after))
        before = after
    return Round(seen=seen, found=found), before


def _simulated(plan: Plan, name: str, seen: Seen, hardware: Hardware) -> Summary:
    config = SimulationConfig(
        hardware=hardware,
        num_hosts=plan.bed.num_hosts,
        slo=_slo(plan),
        interval_s=plan.bed.interval_s,
        deadline_s=TIMEOUT_S,
        seed=plan.seed,
        versions=seen.versions,
    )
    return _summary(plan, name, simulate(plan.workload(), SYSTEMS[name], config))


def shifted(hardware: Hardware, part: float) -> Hardware:
    """The same hosts, but what steps took begins elsewhere: after that part of all of them."""
    places = [int(len(row) * part) for row in hardware.jitter]
    jitter = tuple(row[place:] + row[:place] for row, place in zip(hardware.jitter, places, strict=True))
    return replace(hardware, jitter=jitter)


def _slo(plan: Plan) -> Slo:
    return Slo(ttft_s=plan.bed.ttft_p95_s, tpot_s=_TPOT_S)


def _rows(plan: Plan, systems: Iterable[str], rounds: Sequence[Round]) -> list[Row]:
    rows = []
    for name in systems:
        reals = [_summary(plan, name, one.seen[name].driven[0].run) for one in rounds]
        simulateds = [
            [
                _simulated(plan, name, one.seen[name], shifted(one.found[name].hardware, number / _SIMULATIONS))
                for number in range(_SIMULATIONS)
            ]
            for one in rounds
        ]
        rows += [
            Row(
                system=name,
                metric=metric,
                reals=[*map(figure, reals)],
                simulateds=[statistics.median(map(figure, some)) for some in simulateds],
            )
            for metric, figure in _METRICS.items()
        ]
    return rows


def _summary(plan: Plan, name: str, run: Run) -> Summary:
    found = summary(plan.compared(run), _slo(plan))
    if found.failed:
        raise ValueError(f"{name} did not answer all requests ({found.failed}); lower --rate, or let nothing else run")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How systems rank by a figure, best first."""

    real: tuple[str, ...]
    simulated: tuple[str, ...]
    pairs: int
    """Of systems that are further apart than the goal, in reality."""
    alike: int
    """Of these, with the same one ahead in the simulator."""


def order_of(rows: Sequence[Row]) -> Order:
    """Of all pairs of systems that are apart in reality: in how many the simulator has the same one ahead."""
    pairs = [
        (first, second)
        for first, second in itertools.combinations(rows, 2)
        if max(first.real, second.real) > (1 + GOAL) * min(first.real, second.real)
    ]
    alike = sum((one.real < other.real) == (one.simulated < other.simulated) for one, other in pairs)
    return Order(
        real=tuple(row.system for row in sorted(rows, key=lambda row: row.real)),
        simulated=tuple(row.system for row in sorted(rows, key=lambda row: row.simulated)),
        pairs=len(pairs),
        alike=alike,
    )


def _fit(found: Calibration) -> dict[str, object]:
    fit = found.fit
    return {
        "steps": fit.num_steps,
        "median_error": fit.median_error,
        "p95_error": fit.p95_error,
        "total_error": fit.total_error,
        "relay_s": found.hardware.relay_s,
        "model": asdict(fit.step),
    }


def _utilisation(seen: Seen) -> list[float]:
    """Part of the time that each host was in steps."""
    span_s = sum(driven.run.span_s for driven in seen.driven)
    return [sum(step.ended_s - step.began_s for step in log) / span_s for log in seen.logs.values()]


def _show(rows: Sequence[Row], order: Order, *, is_met: bool) -> None:
    head = ("system", "figure", "real", "simulated", "difference")
    cells = [(row.system, row.metric, *_figures(row), f"{row.difference:+.0%}") for row in rows]
    print(aligned([head, *cells]))
    print(f"p95 TTFT, best first: real {', '.join(order.real)}; simulated {', '.join(order.simulated)}")
    print(f"{order.alike} of {order.pairs} pairs that are over {GOAL:.0%} apart are in the same order")
    print(f"within {GOAL:.0%}, order the same: {'yes' if is_met else 'NO'}")


def _figures(row: Row) -> tuple[str, str]:
    if row.metric == "tokens/s":
        return f"{row.real:.0f}", f"{row.simulated:.0f}"
    return milliseconds(row.real), milliseconds(row.simulated)


def _say(text: str) -> None:
    print(f"{text} …", flush=True)
