"""One simulation of a sweep. Owns: how a case becomes one, what disturbs it, what is kept of it, the store of those.

Does not: choose loads. The store is a folder named after everything that decides on a result, code included: what was
simulated by other code, on other hardware or for another duration is not found.
"""

import functools
import hashlib
import math
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.baselines.systems import SIMULATED, SYSTEMS, System
from benchmarks.outcomes import sweeps
from benchmarks.outcomes.records import Outcome, Run
from benchmarks.outcomes.statistics import Slo, Summary, summary
from benchmarks.outcomes.sweeps import Case, Point
from benchmarks.simulator.bound import bound
from benchmarks.simulator.cluster import kept, simulate
from benchmarks.simulator.config import Distortion, Loss, SimulationConfig
from benchmarks.simulator.device import Kernels
from benchmarks.simulator.presets import PRESETS
from benchmarks.sweep.tasks import (
    AS_IT_IS,
    CALM,
    CROWD,
    FORECAST,
    INTERFERENCE,
    LOSS,
    RANK_8,
    UNBURDENED,
    Task,
)
from benchmarks.workloads import columns
from benchmarks.workloads.options import Flags, setting_of
from benchmarks.workloads.records import Workload
from benchmarks.workloads.setting import Crowd, Setting
from benchmarks.workloads.settings import NAMED

_FEWEST_REQUESTS = 40
"""Of a simulation that says something about a 95th percentile."""
KERNELS = tuple(map(str, Kernels))
PACE = 5.0
"""Times as fast as in life."""
_PEAK_S = 30.0
"""How long the busiest stretch of a workload is, in which a host is lost."""
_DRAIN = 10
"""SLOs after the last arrival, what is still open has failed: it would be late whatever came of it."""
_MEAN_TOKENS = 1155 + 211
"""Of a request of Azure's conversations (2023): where the search begins, not where it ends."""
_OURS = ("benchmarks.simulator.", "benchmarks.baselines.", "benchmarks.workloads.", "cluster.", "lorajax.")
"""Packages whose code decides on a result."""

type _Simulate = Callable[[Workload, System, SimulationConfig], Run | None]
"""To its end, or only as long as the SLO can be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all simulations of a sweep share; a `Source` of points."""

    hardware: str
    """Name of a preset."""
    duration_s: float
    """Of what counts."""
    warm_s: float
    """Before it: the first rounds know nothing of demand."""
    pace: float | None
    """Of all settings. None: each its own, and PACE where it has none."""
    interval_s: float
    """Between rounds of placement."""
    store: Path
    settings_file: Path | None = None
    """With settings of the user's own."""

    def facts(self) -> dict[str, object]:
        """For the results."""
        named = {name: getattr(self, name) for name in ("hardware", "duration_s", "warm_s", "interval_s")}
        return named | {"pace": self.pace or f"{PACE:g}, or the setting's own"}

    def settings(self) -> tuple[str, ...]:
        """Names that a case may have. Raises: ValueError or OSError of one line where the file is no good."""
        return tuple(_settings(self.settings_file))

    def point(self, task: Task) -> Point:
        """What a simulation found, out of the store where it was done before."""
        point = self._stored(task, simulate)
        assert point is not None, "a run that goes on to its end has a result"
        return point

    def kept(self, task: Task) -> Point | None:
        """The same where it keeps the SLO, else None. Where all requests count, a simulation ends when it is lost."""
        point = self._stored(task, kept) if _counts_all(task) else self.point(task)
        return point if point is not None and point.is_within else None

    def _stored(self, task: Task, how: _Simulate) -> Point | None:
        """A lost simulation is stored, too: as one without a result, which whoever wants one does again."""
        path = self.store / _digest(self) / f"{_name(task)}.json"
        lost = path.with_suffix(".lost")
        if not path.exists() and (how is simulate or not lost.exists()):
            point = _simulated(self, task, how)
            _write(lost if point is None else path, "" if point is None else sweeps.point_json(point))
        return sweeps.point_of(path.read_text(encoding="utf-8")) if path.exists() else None

    def guess(self, case: Case) -> float:
        """A load in requests/s near which the limit may lie."""
        hardware, kernels = PRESETS[self.hardware], Kernels(case.kernels)
        tokens_per_s = hardware.points(kernels, Slo(ttft_s=case.slo_s)).tokens_per_s
        return case.hosts * mean(tokens_per_s.values()) / _MEAN_TOKENS

    def is_possible(self, case: Case, rate: float) -> bool:
        """Whether any system at all could keep the SLO at so many requests/s: rank-exact kernels, all known."""
        workload = _workload(self, Task(case=case, rate=rate))
        judged = tuple(one for one in workload.arrivals if one.at_s >= self.warm_s)
        return bound(replace(workload, arrivals=judged), PRESETS[self.hardware], case.hosts).ttft_s <= case.slo_s

    def least_rate(self) -> float:
        """Fewer requests/s say nothing about a 95th percentile."""
        return _FEWEST_REQUESTS / self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """What differs from the setting as it is."""

    crowds: tuple[Crowd, ...] | None = ()
    """In place of those of the setting; None: as there."""
    system: Callable[[System], System] = lambda system: system
    ranks: Callable[[Mapping[str, int]], Mapping[str, int]] = lambda ranks: ranks
    config: Callable[[SimulationConfig, Workload], SimulationConfig] = lambda config, _workload: config
    is_judged: Callable[[Outcome], bool] = lambda _one: True
    """Whether a request counts."""


def _everywhere(system: System) -> System:
    """The same routing, with nothing to place."""
    return replace(system, policy=SYSTEMS["replicated"].policy)


def _unburdened(config: SimulationConfig, _workload: Workload) -> SimulationConfig:
    return replace(config, hardware=config.hardware.unburdened())


def _distorted(config: SimulationConfig, _workload: Workload) -> SimulationConfig:
    return replace(config, distortion=Distortion(low=0.5, high=1.5, seed=config.seed))


def _losing(config: SimulationConfig, workload: Workload) -> SimulationConfig:
    return replace(config, losses=(Loss(host=0, at_s=_peak_s(workload, config.warm_s)),))


def _peak_s(workload: Workload, warm_s: float) -> float:
    """The middle of the busiest stretch after that."""
    at_s = np.array([one.at_s for one in workload.arrivals if one.at_s >= warm_s])
    counts = np.searchsorted(at_s, at_s + _PEAK_S) - np.arange(len(at_s))
    return float(min(at_s[int(np.argmax(counts))] + _PEAK_S / 2, at_s[-1]))


def _every_other(ranks: Mapping[str, int]) -> Mapping[str, int]:
    """Rank 8 and rank 128 by turns."""
    return {adapter: (8, 128)[number % 2] for number, adapter in enumerate(sorted(ranks))}


def _is_not_crowd(one: Outcome) -> bool:
    return one.adapter != Crowd().adapter


def _is_rank_8(one: Outcome) -> bool:
    return one.rank == 8


_VARIANTS: Mapping[str, _Variant] = {
    AS_IT_IS: _Variant(crowds=None),
    UNBURDENED: _Variant(crowds=None, system=_everywhere, config=_unburdened),
    CALM: _Variant(is_judged=_is_not_crowd),
    FORECAST: _Variant(config=_distorted),
    LOSS: _Variant(config=_losing),
    CROWD: _Variant(crowds=(Crowd(),), is_judged=_is_not_crowd),
    RANK_8: _Variant(ranks=lambda ranks: dict.fromkeys(ranks, 8), is_judged=_is_rank_8),
    INTERFERENCE: _Variant(ranks=_every_other, is_judged=_is_rank_8),
}


def _counts_all(task: Task) -> bool:
    return task.variant in (AS_IT_IS, UNBURDENED)


def _simulated(plan: Plan, task: Task, how: _Simulate) -> Point | None:
    case, slo = task.case, Slo(ttft_s=task.case.slo_s)
    hardware = PRESETS[plan.hardware].with_kernels(Kernels(case.kernels))
    config = SimulationConfig(
        hardware=hardware,
        num_hosts=case.hosts,
        slo=slo,
        interval_s=plan.interval_s,
        warm_s=plan.warm_s,
        drain_s=_DRAIN * case.slo_s,
        keeps_placements=False,
        seed=case.seed,
    )
    variant, workload = _VARIANTS[task.variant], _workload(plan, task)
    run = how(workload, variant.system(SIMULATED[case.system]), variant.config(config, workload))
    if run is None:
        return None
    counted = tuple(one for one in run.outcomes if one.due_s >= plan.warm_s and variant.is_judged(one))
    judged = replace(run, outcomes=counted, span_s=run.span_s - plan.warm_s)
    replicated = case.hosts * sum(map(hardware.adapter_bytes, workload.ranks.values()))
    return _point(task, summary(judged, slo), replicated)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _workload(plan: Plan, task: Task) -> Workload:
    setting, variant = _settings(plan.settings_file)[task.case.setting], _VARIANTS[task.variant]
    setting = replace(setting, pace=plan.pace or setting.pace or PACE)
    if variant.crowds is not None:
        setting = replace(setting, crowds=variant.crowds)
    workload = setting(rate=task.rate, duration_s=plan.warm_s + plan.duration_s, seed=task.case.seed)
    return replace(workload, ranks=variant.ranks(workload.ranks))


@functools.cache
def _settings(file: Path | None) -> Mapping[str, Setting]:
    """The named settings, and those of a file: tables with the fields of `Flags`.

    Raises: ValueError naming the file where it holds something else; OSError where it, or a trace, cannot be read.
    """
    if file is None:
        return NAMED
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        made = {name: setting_of(Flags(**table | _parsed(table))) for name, table in tables.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} holds no settings ({error}); see `sweep --help` for one") from error
    return {**NAMED, **{name: replace(setting, name=name) for name, setting in made.items()}}


def _parsed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are no text in `Flags`, but are in a file."""
    readers: Mapping[str, Callable[[str], object]] = {"trace": Path, "columns": columns.parsed}
    return {name: read(table[name]) for name, read in readers.items() if isinstance(table.get(name), str)}


def _files_of(settings_file: Path) -> Iterator[Path]:
    """Files that its settings are made of."""
    for table in tomllib.loads(settings_file.read_text(encoding="utf-8")).values():
        for path in (Path(table[name]) for name in ("trace", "lengths", "popularity") if name in table):
            yield from sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []


def _point(task: Task, found: Summary, replicated_bytes: float) -> Point:
    shares = found.pool.hit_shares
    return Point(
        case=task.case,
        rate=task.rate,
        throughput=found.request_throughput,
        tail_ttft_s=found.tail_ttft_s,
        median_ttft_s=math.inf if found.ttft is None else found.ttft.median,
        mean_tpot_s=math.inf if found.tpot is None else found.tpot.mean,
        attainment=found.attainment,
        held_bytes=found.pool.held_bytes,
        replicated_bytes=replicated_bytes,
        moved_bytes=found.pool.moved_bytes,
        imbalance=found.imbalance,
        device_share=math.nan if shares is None else shares[0],
        tail_by_rank={rank: group.tail_ttft_s for rank, group in found.by_rank.items()},
        cdf_by_rank=found.cdf_by_rank,
    )


def _name(task: Task) -> str:
    case = task.case
    words = (case.setting, case.system, case.kernels, f"{case.slo_s:g}s", f"{case.hosts}hosts", f"seed{case.seed}")
    return "-".join((*words, f"{task.rate:.6g}", *(task.variant,) * bool(task.variant))).replace(" ", "_")


@functools.cache
def _digest(plan: Plan) -> str:
    """Of what all simulations share: the plan, and every file of ours that is loaded to simulate."""
    loaded = {name: module.__file__ for name, module in sys.modules.items() if name.startswith(_OURS)}
    digest = hashlib.sha256(repr(sorted(plan.facts().items())).encode())
    if plan.settings_file is not None:
        for path in (plan.settings_file, *_files_of(plan.settings_file)):
            digest.update(path.read_bytes())
    for name in sorted(loaded):
        digest.update(Path(str(loaded[name])).read_bytes())
    return digest.hexdigest()[:16]
