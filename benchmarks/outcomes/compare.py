"""Two files of runs beside each other. Owns: which runs are alike, what changed, and how sure that is.

Does not: read files. An interval is Student's, of 95 %, over seeds: of the differences within a seed where both sides
ran the same seeds, else Welch's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy import stats

from benchmarks.outcomes import block
from benchmarks.outcomes.files import Result
from benchmarks.outcomes.statistics import Distribution, Summary

_CONFIDENCE = 0.95
MAY_DIFFER = frozenset(
    {"command", "seed", "system", "placement", "routing", "pool", "kernels", "policy", "versions", "num_clipped"}
)
"""Facts that do not make runs unlike: what is compared, and who ran it; the last word of a fact's name counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that is compared."""

    name: str
    unit: str
    of: Callable[[Summary], float]
    """NaN where the run does not say."""
    scale: float = 1.0
    """From what `of` returns to the unit."""
    is_good_high: bool = False


def _of(
    part: Callable[[Summary], Distribution | None], number: Callable[[Distribution], float]
) -> Callable[..., float]:
    def read(summary: Summary) -> float:
        found = part(summary)
        return math.nan if found is None else number(found)

    return read


def _hit_share(summary: Summary) -> float:
    shares = summary.pool.hit_shares
    return math.nan if shares is None else shares[0]


METRICS = (
    Metric(name="Request throughput", unit="req/s", of=lambda one: one.request_throughput, is_good_high=True),
    Metric(name="Request goodput", unit="req/s", of=lambda one: one.goodput, is_good_high=True),
    Metric(name="Output token throughput", unit="tok/s", of=lambda one: one.output_throughput, is_good_high=True),
    Metric(name="Requests within the SLO", unit="%", of=lambda one: one.attainment, scale=100, is_good_high=True),
    Metric(name="Failed requests", unit="", of=lambda one: sum(one.failed.values())),
    Metric(name="TTFT at the SLO's quantile", unit="ms", of=lambda one: one.tail_ttft_s, scale=1e3),
    Metric(name="Median TTFT", unit="ms", of=_of(lambda one: one.ttft, lambda one: one.median), scale=1e3),
    Metric(name="P99 TTFT", unit="ms", of=_of(lambda one: one.ttft, lambda one: one.p99), scale=1e3),
    Metric(name="Mean TPOT", unit="ms", of=_of(lambda one: one.tpot, lambda one: one.mean), scale=1e3),
    Metric(name="P99 ITL", unit="ms", of=_of(lambda one: one.itl, lambda one: one.p99), scale=1e3),
    Metric(name="P95 E2EL", unit="ms", of=_of(lambda one: one.e2el, lambda one: one.p95), scale=1e3),
    Metric(name="Adapters found on the device", unit="%", of=_hit_share, scale=100, is_good_high=True),
    Metric(name="Waited for adapters", unit="s", of=lambda one: one.pool.stall_s),
    Metric(name="Adapters held", unit="MiB", of=lambda one: one.pool.held_bytes, scale=2**-20),
    Metric(name="Adapters moved", unit="MiB", of=lambda one: one.pool.moved_bytes, scale=2**-20),
    Metric(name="Busiest host over the mean", unit="", of=lambda one: one.imbalance),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One number on both sides, in its unit."""

    metric: Metric
    before: float
    """Mean over seeds."""
    after: float
    low: float
    """Of after - before; NaN where one seed does not tell."""
    high: float

    @property
    def verdict(self) -> str:
        """Whether it is better, worse, or too close to call."""
        if self.before == self.after:
            return "same"
        if math.isnan(self.low):
            return "one seed" if math.isfinite(self.after - self.before) else "not comparable"
        if self.low <= 0 <= self.high:
            return "unclear"
        return "better" if (self.low > 0) == self.metric.is_good_high else "worse"


def compared(before: Sequence[Result], after: Sequence[Result]) -> tuple[Change, ...]:
    """What changed from the runs of one file to those of another.

    Raises: ValueError that names the first fact in which they differ and must not.
    """
    _refuse_unlike(list(chain(before, after)))
    changes = (_change(metric, before, after) for metric in METRICS)
    return tuple(one for one in changes if not (math.isnan(one.before) or math.isnan(one.after)))


def table(before: Sequence[Result], after: Sequence[Result]) -> str:
    """The changes as text, under what was compared."""
    rows = [("", "before", "after", "change", "95 % interval", ""), *map(_row, compared(before, after))]
    return "\n".join((*_differing(before[0], after[0]), "", block.aligned(rows)))


def interval(before: Sequence[float], after: Sequence[float], *, is_paired: bool) -> tuple[float, float]:
    """Where the mean of after - before lies with 95 % confidence; NaN where a side has one value or an infinite one."""
    a, b = np.array(before), np.array(after)
    if min(len(a), len(b)) < 2 or not np.isfinite([*a, *b]).all():
        return math.nan, math.nan
    middle = float(b.mean() - a.mean())
    if is_paired:
        freedom, error = len(a) - 1.0, float((b - a).std(ddof=1)) / math.sqrt(len(a))
    else:
        parts = (float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b))
        error = math.sqrt(sum(parts))
        squares = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
        freedom = error**4 / squares if squares else 1.0
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * error
    return middle - reach, middle + reach


def _change(metric: Metric, before: Sequence[Result], after: Sequence[Result]) -> Change:
    sides = [sorted(side, key=_seed) for side in (before, after)]
    seeds, others = (list(map(_seed, side)) for side in sides)
    is_paired = seeds == others and len(set(seeds)) == len(seeds)
    a, b = ([metric.of(one.summary) * metric.scale for one in side] for side in sides)
    low, high = interval(a, b, is_paired=is_paired)
    return Change(metric=metric, before=float(np.mean(a)), after=float(np.mean(b)), low=low, high=high)


def _seed(result: Result) -> str:
    return str(result.run.facts.get("seed"))


def _refuse_unlike(results: Sequence[Result]) -> None:
    if any(one.run.facts.get("is_whole") is False for one in results):
        raise ValueError("a run was stopped early, and what was never sent counts as failed; compare whole runs")
    first, *others = map(_facts, results)
    for other in others:
        for name in dict.fromkeys((*first, *other)):
            if not _may_differ(name) and first.get(name) != other.get(name):
                raise ValueError(
                    f"the runs differ in {name}: {first.get(name, 'not said')} and {other.get(name, 'not said')}; "
                    "compare runs that differ in system, kernels, version or seed only"
                )


def _facts(result: Result) -> dict[str, object]:
    run, slo = result.run, result.summary.slo
    asked = {"SLO": f"{block.objective(slo)} for {slo.quantile:.0%}"}
    hosts = {"hosts": len(run.hosts)} if run.hosts else {}
    return {"workload": run.workload} | hosts | asked | dict(_flat("", run.facts))


def _flat(prefix: str, facts: Mapping[str, object]) -> list[tuple[str, object]]:
    """Facts within facts under joined names; lists as text, as JSON does not tell them from tuples."""
    found: list[tuple[str, object]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found += _flat(f"{prefix}{name}.", value)
        else:
            found.append((f"{prefix}{name}", list(value) if isinstance(value, tuple) else value))
    return found


def _may_differ(name: str) -> bool:
    words = name.split(".")
    return words[-1] in MAY_DIFFER or words[0] in MAY_DIFFER


def _differing(before: Result, after: Result) -> list[str]:
    first, second = (_facts(one) | {"system": one.run.system} for one in (before, after))
    names = [name for name in dict.fromkeys((*first, *second)) if first.get(name) != second.get(name)]
    lines = [f"{name}: {first.get(name, 'not said')} -> {second.get(name, 'not said')}" for name in names]
    return [f"{before.run.workload}, {first['SLO']}", *lines]


def _row(change: Change) -> tuple[str, ...]:
    metric = change.metric
    share = change.after / change.before - 1 if change.before else math.nan
    has_interval = not math.isnan(change.low)
    return (
        f"{metric.name} ({metric.unit})" if metric.unit else metric.name,
        f"{change.before:.2f}",
        f"{change.after:.2f}",
        f"{share:+.1%}" if math.isfinite(share) else "",
        f"{change.low:+.2f} … {change.high:+.2f}" if has_interval else "",
        change.verdict,
    )
