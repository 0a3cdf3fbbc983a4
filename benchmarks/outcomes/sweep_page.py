"""The page about a sweep, and its pictures. Owns: which there are. Does not: judge, draw, read or write files."""

import math
from collections.abc import Iterator, Sequence
from types import ModuleType

from benchmarks.outcomes import claims, html
from benchmarks.outcomes import sweep_tables as tables
from benchmarks.outcomes.html import Picture, Section
from benchmarks.outcomes.sweeps import Point, Sweep

_RANKS_OF = (claims.OURS, claims.LORASERVE, claims.STATIC[0])
"""Systems whose TTFT is drawn by rank."""


def page(sweep: Sweep, pictures: ModuleType) -> str:
    """Tables, then pictures; `pictures` is the module that draws."""
    found = [Section(heading=heading, words=words, table=table) for heading, words, table in tables.headed(sweep)]
    for one in drawn(sweep, pictures):
        found.append(Section(heading=one.heading, picture=pictures.svg(one.figure), caption=one.caption))
    return html.page("Systems under rising load", found, sweep.facts)


def drawn(sweep: Sweep, pictures: ModuleType) -> Iterator[Picture]:
    """Every picture for which the sweep has numbers."""
    for slo_s in tables.slos(sweep):
        yield _loads(sweep, slo_s, pictures)
        for setting in dict.fromkeys(one.case.setting for one in sweep.points if one.case.slo_s == slo_s):
            points = _shown(sweep, setting, slo_s)
            yield _curves(sweep, points, pictures)
            yield from _ranks(points, setting, slo_s, pictures)
    yield from _needs(sweep, pictures)
    yield from _ablation(sweep, pictures)


def _loads(sweep: Sweep, slo_s: float, pictures: ModuleType) -> Picture:
    bars: dict[str, dict[str, list[float]]] = {name: {} for name in _names(sweep)}
    for one in tables.limits(sweep, slo_s):
        bars[_label(one.case.system)].setdefault(one.case.setting, []).append(one.rate)
    return Picture(
        name=f"loads-{slo_s:g}s",
        heading=f"Most load with P95 TTFT ≤ {slo_s:g} s",
        caption="Bars are means over seeds, whiskers go from the lowest to the highest.",
        figure=pictures.loads(bars, slo_s),
    )


def _curves(sweep: Sweep, points: Sequence[Point], pictures: ModuleType) -> Picture:
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in _names(sweep)}
    for one in sorted(points, key=lambda one: one.rate):
        curves[_label(one.case.system)].append((one.rate, one.tail_ttft_s))
    setting, slo_s = points[0].case.setting, points[0].case.slo_s
    return Picture(
        name=f"ttft-{setting}-{slo_s:g}s",
        heading=f"{setting}: load against P95 TTFT, SLO {slo_s:g} s",
        caption="One seed. Failed requests count as infinitely late.",
        figure=pictures.load_against_ttft(curves, slo_s),
    )


def _ranks(points: Sequence[Point], setting: str, slo_s: float, pictures: ModuleType) -> Iterator[Picture]:
    for system in _RANKS_OF:
        with_cdf = [one for one in points if one.case.system == system and one.cdf_by_rank]
        if with_cdf:
            one = max(with_cdf, key=lambda one: one.rate)
            yield Picture(
                name=f"ranks-{setting}-{slo_s:g}s-{system}",
                heading=f"{setting}: TTFT by rank, {_label(system)}",
                caption=f"At {one.rate:.1f} requests/s, the most it keeps within P95 TTFT ≤ {slo_s:g} s. One seed.",
                figure=pictures.ttft_by_rank(one.cdf_by_rank, slo_s),
            )


def _needs(sweep: Sweep, pictures: ModuleType) -> Iterator[Picture]:
    needs = tables.shown_needs(sweep)
    for setting, slo_s in dict.fromkeys((one.case.setting, one.case.slo_s) for one in needs):
        bars: dict[str, dict[str, list[float]]] = {name: {} for name in _names(sweep)}
        for one in needs:
            if (one.case.setting, one.case.slo_s) == (setting, slo_s) and math.isfinite(one.hosts):
                bars[_label(one.case.system)].setdefault(f"{one.rate:g} requests/s", []).append(one.hosts)
        yield Picture(
            name=f"hosts-{setting}-{slo_s:g}s",
            heading=f"{setting}: hosts needed for P95 TTFT ≤ {slo_s:g} s",
            caption="Bars are means over seeds; there is none where the most that were tried are not enough.",
            figure=pictures.hosts_needed(bars, slo_s),
        )


def _ablation(sweep: Sweep, pictures: ModuleType) -> Iterator[Picture]:
    base = claims.loads(sweep, claims.LORASERVE, claims.PADDED)
    bars: dict[str, dict[str, list[float]]] = {}
    for system, kernels in dict.fromkeys((one.case.system, one.case.kernels) for one in sweep.limits):
        ratios = claims.over(claims.loads(sweep, system, kernels), base)
        if ratios:
            bars.setdefault(system, {})[kernels] = [claims.geometric_mean(ratios.values())]
    if len({kernels for of in bars.values() for kernels in of}) > 1:
        yield Picture(
            name="ablation",
            heading="Kernels apart from placement and routing",
            caption="Geometric mean over settings and service levels.",
            figure=pictures.ablation(bars, f"{claims.LORASERVE} with {claims.PADDED}"),
        )


def _shown(sweep: Sweep, setting: str, slo_s: float) -> list[Point]:
    """The points of one seed, on as many hosts as the sweep has, each system under the kernels it is shown with."""
    kept = [
        one
        for one in sweep.points
        if (one.case.setting, one.case.slo_s) == (setting, slo_s)
        and one.case.kernels == tables.shown_kernels(one.case.system)
    ]
    seed, hosts = kept[0].case.seed, kept[0].case.hosts
    return [one for one in kept if (one.case.seed, one.case.hosts) == (seed, hosts)]


def _label(system: str) -> str:
    return f"{system} ({tables.shown_kernels(system)})" if system == claims.OURS else system


def _names(sweep: Sweep) -> list[str]:
    """The systems, always in the same order: the look of each is its number."""
    systems = dict.fromkeys(one.case.system for one in sweep.limits)
    return [_label(system) for system in sorted(systems, key=lambda system: system != claims.OURS)]
