"""Systems under rising load, simulated. Owns: which simulations there are, and the search for the most load.

Does not: simulate one (simulated.py), judge, draw. Loads lie on a grid of equal ratios, so that systems meet at the
same ones; a simulation that was done is not done again, so a sweep that was stopped goes on where it was.
"""

import functools
import itertools
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks import machine
from benchmarks.outcomes import claims, sweep_tables, sweeps
from benchmarks.outcomes.block import aligned
from benchmarks.outcomes.sweeps import Bound, Case, Limit, Need, Point, Sweep, Trial
from benchmarks.sweep.tasks import CALM, CROWD, FORECAST, INTERFERENCE, LOSS, RANK_8, UNBURDENED, Source, Task

_CURVE = (0.3, 1.3)
"""From which to which part of the highest load the curve of the first seed goes."""
_CURVE_RATIO = 1.25
"""From one load of the curve to the next."""
_SURE, _FAR = 1.15, 1.4
"""How far off a first guess may well be, and the next one from any."""
_TRIAL_LOAD = 0.7
"""Of the highest load; the rest is what a cluster keeps for a bad day."""
_GOAL = 1.25
_UNBURDENED = (claims.OURS, claims.TOPPINGS)
"""Routings that are tried where all adapters are everywhere."""
FEWER = "one host fewer from the start"
"""A trial beside that of a lost host: what the loss of its capacity costs any system."""
_INTERFERENCE_LOADS = (0.3, 0.5, 0.7)
"""Of what rank 8 alone keeps within the SLO; at which of them the paper measured, it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is swept."""

    settings: tuple[str, ...]
    systems: tuple[str, ...]
    kernels: tuple[str, ...]
    slos_s: tuple[float, ...]
    seeds: int
    hosts: int
    resolution: float
    """Of the highest load, as a part of it."""
    need: tuple[float, ...] = ()
    """Loads for which the fewest hosts are found, in requests/s."""
    most_hosts: int = 12
    has_curves: bool = True
    """Whether the first seed is also simulated at loads below and above its limit."""
    has_trials: bool = True
    """Whether ours is disturbed, too."""

    @property
    def has_interference(self) -> bool:
        """Whether rank 8 is to be put beside rank 128: a matter of padded kernels."""
        return self.has_trials and claims.PADDED in self.kernels

    def cases(self) -> list[Case]:
        """In the order in which they are worth doing: seed by seed."""
        axes = (range(self.seeds), self.slos_s, self.settings, self.kernels, self.systems)
        return [
            Case(setting=setting, system=system, kernels=kernels, seed=seed, slo_s=slo_s, hosts=self.hosts)
            for seed, slo_s, setting, kernels, system in itertools.product(*axes)
        ]


@dataclass(frozen=True, slots=True)
class _Found:
    limit: Limit
    points: tuple[Point, ...] = ()
    needs: tuple[Need, ...] = ()
    trials: tuple[Trial, ...] = ()
    bounds: tuple[Bound, ...] = ()


def run(wanted: Wanted, source: Source, jobs: int, path: Path) -> Sweep:
    """Simulate what is wanted, print its tables, write it to `path`."""
    found: list[_Found] = []
    hints: dict[Case, float] = {}
    cases = wanted.cases()
    for _, same_seed in itertools.groupby(cases, key=lambda case: case.seed):
        searches = [(case, hints.get(replace(case, seed=0), 0.0)) for case in same_seed]
        for one in _mapped(functools.partial(_found, wanted, source), searches, jobs):
            found.append(one)
            hints[one.limit.case] = one.limit.rate
            print(f"{len(found)}/{len(cases)}  {_told(one.limit)}", flush=True)
    asked = list(itertools.product(range(wanted.seeds), wanted.slos_s)) if wanted.has_interference else []
    interference = _mapped(functools.partial(_interference, wanted, source), asked, jobs)
    sweep = Sweep(
        facts=machine.without_device() | source.facts() | _facts(wanted),
        points=tuple(point for one in found for point in _lean(one)),
        limits=tuple(one.limit for one in found),
        needs=tuple(need for one in found for need in one.needs),
        bounds=tuple(bound for one in found for bound in one.bounds),
        trials=(*(trial for one in found for trial in one.trials), *itertools.chain.from_iterable(interference)),
    )
    sweeps.write(sweep, path)
    for heading, _, table in sweep_tables.headed(sweep):
        print(f"\n{heading}\n{aligned(table)}")
    print(f"\n{path}")
    return sweep


def highest(
    within: Callable[[int], bool], start: int, floor: int, stride: int = 1, max_stride: int = 2**20
) -> int | None:
    """The highest number that is within, found from `start` upwards or downwards; None where `floor` is not.

    What is within is taken to stay within at lower numbers. Strides double until they are the longest: a question far
    above the limit may take long to answer.
    """
    low, high = None, None
    at = max(start, floor)
    while low is None or high is None:
        if within(at):
            low = at
        elif at == floor:
            return None
        else:
            high = at
        at = at + stride if high is None else max(floor, at - stride)
        stride = min(2 * stride, max_stride)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def _found(wanted: Wanted, source: Source, search: tuple[Case, float]) -> _Found:
    """The whole of one case: its limit, near the load that another seed found, and what is asked of it besides."""
    case, hint = search
    limit, points = _limit(wanted, source, case, hint)
    if not limit.rate:
        return _Found(limit, points)
    if wanted.has_curves and case.seed == 0:
        points = (*points, *_curve(wanted, source, limit))
    is_shown = case.kernels == sweep_tables.shown_kernels(case.system)
    needs = tuple(_need(wanted, source, case, rate) for rate in wanted.need) if is_shown else ()
    if not is_shown or case.system != claims.OURS:
        return _Found(limit, points, needs)
    trials = tuple(_trials(source, limit)) if wanted.has_trials else ()
    return _Found(limit, points, needs, trials, (_bound(wanted, source, limit),))


def _limit(wanted: Wanted, source: Source, case: Case, hint: float) -> tuple[Limit, tuple[Point, ...]]:
    tried: dict[int, Point] = {}

    def within(number: int) -> bool:
        if (point := source.kept(Task(case=case, rate=_rate(wanted, number)))) is not None:
            tried[number] = point
        return point is not None

    floor = math.ceil(_number(wanted, source.least_rate()))
    start = round(_number(wanted, hint or source.guess(case)))
    found = highest(within, start, floor, 1 if hint else _stride(wanted, _SURE), _stride(wanted, _FAR))
    points = tuple(tried[number] for number in sorted(tried))
    if found is None:
        return Limit(case=case, rate=0.0, held_share=math.nan), points
    at = tried[found]
    return Limit(case=case, rate=at.rate, held_share=at.held_bytes / at.replicated_bytes), points


def _stride(wanted: Wanted, ratio: float) -> int:
    return max(1, round(_number(wanted, ratio)))


def _rate(wanted: Wanted, number: int) -> float:
    return float(f"{(1 + wanted.resolution) ** number:.6g}")


def _number(wanted: Wanted, rate: float) -> float:
    return math.log(rate) / math.log1p(wanted.resolution)


def _curve(wanted: Wanted, source: Source, limit: Limit) -> Iterator[Point]:
    """At the loads of the grid's coarse lines, which are the same for all systems."""
    stride = _stride(wanted, _CURVE_RATIO)
    low, high = (_number(wanted, limit.rate * part) / stride for part in _CURVE)
    for number in range(math.ceil(low), math.floor(high) + 1):
        yield source.point(Task(case=limit.case, rate=_rate(wanted, number * stride)))


def _need(wanted: Wanted, source: Source, case: Case, rate: float) -> Need:
    """By halves, from the most hosts down."""

    def is_enough(hosts: int) -> bool:
        return source.kept(Task(case=replace(case, hosts=hosts), rate=rate)) is not None

    case = replace(case, hosts=wanted.most_hosts)
    if not is_enough(wanted.most_hosts):
        return Need(case=case, rate=rate, hosts=math.inf)
    too_few, enough = 0, wanted.most_hosts
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if is_enough(middle) else (middle, enough)
    return Need(case=case, rate=rate, hosts=enough)


def _bound(wanted: Wanted, source: Source, limit: Limit) -> Bound:
    case, start = limit.case, round(_number(wanted, limit.rate))
    number = highest(lambda number: source.is_possible(case, _rate(wanted, number)), start, start)
    return Bound(
        setting=case.setting,
        kernels=case.kernels,
        seed=case.seed,
        slo_s=case.slo_s,
        hosts=case.hosts,
        # Not even what ours does is possible: the bound would be wrong, and says so as a ratio above 1.
        rate=0.0 if number is None else _rate(wanted, number),
        unburdened_rate=max(_unburdened(wanted, source, replace(case, system=one), start) for one in _UNBURDENED),
    )


def _unburdened(wanted: Wanted, source: Source, case: Case, start: int) -> float:
    """At least what ours bears: it can be done."""

    def within(number: int) -> bool:
        task = Task(case=case, rate=_rate(wanted, number), variant=UNBURDENED)
        return number == start or source.kept(task) is not None

    number = highest(within, start, start)
    assert number is not None, "the first is within"
    return _rate(wanted, number)


def _trials(source: Source, limit: Limit) -> Iterator[Trial]:
    case = limit.case
    calm = Task(case=case, rate=float(f"{limit.rate * _TRIAL_LOAD:.6g}"), variant=CALM)
    for variant in (FORECAST, LOSS, CROWD):
        yield _trial(source, calm, replace(calm, variant=variant), variant, _GOAL)
    if case.hosts > 1:
        yield _trial(source, calm, replace(calm, case=replace(case, hosts=case.hosts - 1)), FEWER)


def _trial(source: Source, calm: Task, disturbed: Task, disturbance: str, goal: float | None = None) -> Trial:
    return Trial(
        case=calm.case,
        rate=calm.rate,
        disturbance=disturbance,
        calm_s=source.point(calm).tail_ttft_s,
        disturbed_s=source.point(disturbed).tail_ttft_s,
        goal=goal,
    )


def _interference(wanted: Wanted, source: Source, seed_and_slo: tuple[int, float]) -> tuple[Trial, ...]:
    """One host under padded kernels, at some loads: what rank 128 does to the requests of rank 8 beside it."""
    seed, slo_s = seed_and_slo
    case = Case(setting=wanted.settings[0], system="contiguous", kernels=claims.PADDED, seed=seed, slo_s=slo_s, hosts=1)

    def within(number: int) -> bool:
        return source.kept(Task(case=case, rate=_rate(wanted, number), variant=RANK_8)) is not None

    number = highest(
        within,
        round(_number(wanted, source.guess(case))),
        math.ceil(_number(wanted, source.least_rate())),
        _stride(wanted, _SURE),
        _stride(wanted, _FAR),
    )
    if number is None:
        return ()
    rates = [float(f"{part * _rate(wanted, number):.3g}") for part in _INTERFERENCE_LOADS]
    alone = [Task(case=case, rate=rate, variant=RANK_8) for rate in rates]
    return tuple(_trial(source, one, replace(one, variant=INTERFERENCE), INTERFERENCE) for one in alone)


def _lean(found: _Found) -> Iterator[Point]:
    """Its points, each once; where latencies lie is kept of one only, at the limit of the first seed."""
    is_kept = found.limit.case.seed == 0 and found.limit.case.kernels == sweep_tables.shown_kernels(
        found.limit.case.system
    )
    points = {one.rate: one for one in found.points}
    for rate, one in sorted(points.items()):
        yield one if is_kept and rate == found.limit.rate else sweeps.without_cdf(one)


def _mapped[A, B](function: Callable[[A], B], given: Sequence[A], jobs: int) -> Iterable[B]:
    """The results in order, from so many processes; whoever stops us leaves none behind."""
    if jobs == 1:
        yield from map(function, given)
    else:
        with get_context("spawn").Pool(jobs, initializer=_leave_signals) as pool:
            yield from pool.imap(function, given)


def _leave_signals() -> None:
    """The parent ends us; Ctrl-C in a terminal reaches everybody."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _told(limit: Limit) -> str:
    case = limit.case
    what = f"{case.setting}, {case.system}, {case.kernels}, P95 TTFT ≤ {case.slo_s:g} s, seed {case.seed}"
    return f"{what}: {limit.rate:.2f} requests/s" if limit.rate else f"{what}: no load is within"


def _facts(wanted: Wanted) -> dict[str, object]:
    return {
        "hosts": wanted.hosts,
        "settings": list(wanted.settings),
        "systems": list(wanted.systems),
        "kernels": list(wanted.kernels),
        "slos_s": list(wanted.slos_s),
        "seeds": wanted.seeds,
        "resolution": wanted.resolution,
    }
