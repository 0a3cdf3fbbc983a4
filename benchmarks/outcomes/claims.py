"""What a sweep is to show. Owns: the claims, their goals, whether they are met. Does not: simulate or draw.

A load is the mean over seeds. A ratio is taken within a setting and a service level. Of all those ratios stand the
geometric mean and the worst case, and a goal is asked of both; or, of what the paper says "up to", the best case alone.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.outcomes.sweeps import Case, Point, Sweep

OURS, LORASERVE, TOPPINGS = "ours", "loraserve", "toppings"
STATIC = ("contiguous", "random")
"""Placements that LoRAServe is compared with."""
EXACT, PADDED = "rank-exact", "batch-max"
"""Kernels: ours, and S-LoRA's, under which the baselines were published."""

INTERFERENCE = "beside rank 128, over rank 8 alone"
"""The trial that puts requests of rank 128 in place of every other request of rank 8."""

type Where = tuple[str, float] | tuple[str, float, float]
"""(setting, SLO in seconds), and requests/s where a load is given."""
type Ratios = Mapping[Where, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """What ratios are to reach."""

    value: float
    sign: Literal["≥", "≤"] = "≥"
    of: Literal["mean and worst", "worst", "best"] = "mean and worst"

    def is_reached(self, value: float) -> bool:
        """Whether one ratio is good enough."""
        return value >= self.value if self.sign == "≥" else value <= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row of the table."""

    claim: str
    mean: float
    """NaN, as `extreme`, where the sweep does not say."""
    extreme: float
    """The worst case; of "up to" the best."""
    where: str
    """The setting of the extreme."""
    goal: Goal | None = None
    """None where the number is only reported."""

    @property
    def met(self) -> str:
        """Whether the goal is: yes, no, or mean only; a dash where there is none, or the sweep does not say."""
        if self.goal is None or math.isnan(self.mean):
            return "-"
        if self.goal.is_reached(self.extreme):
            return "yes"
        is_mean_met = self.goal.of == "mean and worst" and self.goal.is_reached(self.mean)
        return "mean only" if is_mean_met else "no"


HEAD = ("claim", "geometric mean", "worst case, or best", "goal", "met")


def cells(verdict: Verdict) -> tuple[str, ...]:
    """A row under HEAD."""
    goal = verdict.goal
    return (
        verdict.claim,
        "-" if math.isnan(verdict.mean) else f"{verdict.mean:.2f}",
        "-" if math.isnan(verdict.mean) else f"{verdict.extreme:.2f} ({verdict.where})",
        "" if goal is None else f"{goal.sign} {goal.value:g}, {goal.of}",
        verdict.met,
    )


def ours(sweep: Sweep) -> list[Verdict]:
    """Our claims: our kernels against the baselines with theirs, bytes, the bound, robustness."""
    return [*_against(sweep, EXACT, PADDED), _bytes(sweep), *_bounds(sweep), *_trials(sweep)]


def ablation(sweep: Sweep) -> list[Verdict]:
    """The same loads with equal kernels on both sides, for each of the kernels that were swept."""
    kernels = dict.fromkeys(limit.case.kernels for limit in sweep.limits)
    return [verdict for name in kernels for verdict in _against(sweep, name, name)]


def parts(sweep: Sweep) -> list[Verdict]:
    """What is left of ours' load where one part of it is exchanged."""
    cases = dict.fromkeys((one.case.kernels, one.case.system) for one in sweep.limits if is_part(one.case.system))
    return [
        _verdict(
            f"load: {name} over ours ({kernels})", over(loads(sweep, name, kernels), loads(sweep, OURS, kernels)), None
        )
        for kernels, name in cases
    ]


def reproduction(sweep: Sweep) -> list[Verdict]:
    """LoRAServe's own claims, with the kernels under which it was published."""
    mine = loads(sweep, LORASERVE, PADDED)
    return [
        *(
            _verdict(f"load: loraserve over {other}", over(mine, loads(sweep, other, PADDED)), Goal(2.0, of="best"))
            for other in STATIC
        ),
        _verdict("load: loraserve over toppings", over(mine, loads(sweep, TOPPINGS, PADDED)), Goal(1.2, of="best")),
        *(
            _verdict(f"P95 TTFT: {other} over loraserve, at one load", _slower(sweep, other), Goal(9.0, of="best"))
            for other in STATIC
        ),
        *(
            _verdict(f"hosts: loraserve over {other}, for one load", _fewer(sweep, other), Goal(0.5, "≤", of="best"))
            for other in STATIC
        ),
        _verdict(f"P95 TTFT of rank 8: {INTERFERENCE}", _trial_ratios(sweep, INTERFERENCE), Goal(1.84, of="best")),
    ]


def is_part(system: str) -> bool:
    """Whether it is ours with one part exchanged, which is nobody's baseline."""
    return "+" in system


def loads(sweep: Sweep, system: str, kernels: str) -> Ratios:
    """The highest load within the SLO of a system, in the mean over seeds."""
    return _means((_where(one.case), one.rate) for one in sweep.limits if _is(one.case, system, kernels))


def geometric_mean(values: Collection[float]) -> float:
    """Of values not below 0; NaN of none."""
    if not values:
        return math.nan
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0


def _against(sweep: Sweep, our_kernels: str, their_kernels: str) -> Iterator[Verdict]:
    mine = loads(sweep, OURS, our_kernels)
    systems = dict.fromkeys(one.case.system for one in sweep.limits)
    others = [name for name in systems if name != OURS and not is_part(name)]
    theirs = {other: loads(sweep, other, their_kernels) for other in others}
    goals = {LORASERVE: Goal(1.25), TOPPINGS: Goal(1.15)}
    for other in others:
        claim = f"load: ours ({our_kernels}) over {other} ({their_kernels})"
        yield _verdict(claim, over(mine, theirs[other]), goals.get(other))
    best = {where: max((of[where] for of in theirs.values() if where in of), default=0.0) for where in mine}
    claim = f"load: ours ({our_kernels}) over each setting's best baseline ({their_kernels})"
    yield _verdict(claim, over(mine, best), Goal(0.98, of="worst"))


def _bytes(sweep: Sweep) -> Verdict:
    limits = [one for one in sweep.limits if _is(one.case, OURS, EXACT) and one.rate]
    held = _means((_where(one.case), one.held_share) for one in limits)
    return _verdict("adapter bytes: ours over full replication, at ours' highest load", held, Goal(0.35, "≤"))


def _bounds(sweep: Sweep) -> Iterator[Verdict]:
    bounds, mine = [one for one in sweep.bounds if one.kernels == EXACT], loads(sweep, OURS, EXACT)
    unburdened = _means(
        ((one.setting, one.slo_s), one.unburdened_rate) for one in bounds if math.isfinite(one.unburdened_rate)
    )
    claim = "load: ours over a clairvoyant placement (all adapters everywhere, at no cost)"
    yield _verdict(claim, over(mine, unburdened), Goal(0.9))
    claim = f"load: a clairvoyant placement over loraserve ({PADDED}): what could be reached at most"
    yield _verdict(claim, over(unburdened, loads(sweep, LORASERVE, PADDED)), None)
    ideal = _means(((one.setting, one.slo_s), one.rate) for one in bounds)
    yield _verdict("load: ours over a bound that knows no queues", over(mine, ideal), None)


def _trials(sweep: Sweep) -> Iterator[Verdict]:
    goals = {one.disturbance: one.goal for one in sweep.trials if one.disturbance != INTERFERENCE}
    for disturbance, most in goals.items():
        goal = None if most is None else Goal(most, "≤")
        yield _verdict(f"P95 TTFT, ours: {disturbance}", _trial_ratios(sweep, disturbance), goal)


def _trial_ratios(sweep: Sweep, disturbance: str) -> Ratios:
    trials = [one for one in sweep.trials if one.disturbance == disturbance]
    return _means(((*_where(one.case), one.rate), one.disturbed_s / one.calm_s) for one in trials)


def _slower(sweep: Sweep, other: str) -> Ratios:
    """How much later `other` is than loraserve at the same loads, as long as loraserve keeps the SLO: at most."""
    beside = {_load(one): one for one in sweep.points if _is(one.case, other, PADDED)}
    found: dict[Where, float] = {}
    for one in sweep.points:
        if _is(one.case, LORASERVE, PADDED) and one.is_within and _load(one) in beside:
            ratio = beside[_load(one)].tail_ttft_s / one.tail_ttft_s
            if math.isfinite(ratio):
                found[_where(one.case)] = max(ratio, found.get(_where(one.case), 0.0))
    return found


def _fewer(sweep: Sweep, other: str) -> Ratios:
    """Hosts that loraserve needs, over those of `other`, where both have enough."""
    needs = [one for one in sweep.needs if math.isfinite(one.hosts)]
    mine, theirs = (
        _means(((*_where(one.case), one.rate), one.hosts) for one in needs if _is(one.case, system, PADDED))
        for system in (LORASERVE, other)
    )
    return over(mine, theirs)


def _verdict(claim: str, ratios: Ratios, goal: Goal | None) -> Verdict:
    if not ratios:
        return Verdict(claim=claim, mean=math.nan, extreme=math.nan, where="", goal=goal)
    is_low_extreme = goal is None or (goal.sign == "≤") == (goal.of == "best")
    where = (min if is_low_extreme else max)(ratios, key=lambda one: ratios[one])
    mean = geometric_mean(ratios.values())
    return Verdict(claim=claim, mean=mean, extreme=ratios[where], where=_words(where), goal=goal)


def _words(where: Where) -> str:
    setting, slo_s, *rate = where
    return f"{setting}, {slo_s:g} s" + "".join(f", {one:g}/s" for one in rate)


def _is(case: Case, system: str, kernels: str) -> bool:
    return (case.system, case.kernels) == (system, kernels)


def _where(case: Case) -> tuple[str, float]:
    return case.setting, case.slo_s


def _load(point: Point) -> tuple[str, float, int, int, float]:
    case = point.case
    return case.setting, case.slo_s, case.seed, case.hosts, point.rate


def _means(found: Iterable[tuple[Where, float]]) -> Ratios:
    values: dict[Where, list[float]] = {}
    for where, value in found:
        values.setdefault(where, []).append(value)
    return {where: math.fsum(many) / len(many) for where, many in values.items()}


def over(numerator: Ratios, denominator: Ratios) -> Ratios:
    """Where both are known; a system that serves nothing at all is no yardstick."""
    return {where: value / denominator[where] for where, value in numerator.items() if denominator.get(where)}
