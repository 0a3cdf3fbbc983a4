"""A sweep as rows of cells. Owns: its tables, which page and README share. Does not: judge (claims.py does) or draw."""

import math
from collections.abc import Iterator, Mapping

from benchmarks.outcomes import claims
from benchmarks.outcomes.block import milliseconds
from benchmarks.outcomes.html import Table
from benchmarks.outcomes.sweeps import Limit, Need, Sweep


def shown_kernels(system: str) -> str:
    """Under which a system is shown where kernels are not the matter: ours with ours, the others as published."""
    return claims.EXACT if system == claims.OURS or claims.is_part(system) else claims.PADDED


def headed(sweep: Sweep) -> Iterator[tuple[str, str, Table]]:
    """(Heading, words, table) of everything that the sweep can say, trial by trial."""
    yield from summed_up(sweep)
    if sweep.trials:
        yield "Trials", "P95 TTFT of requests that the disturbance did not add, at the same load.", trials(sweep)


def summed_up(sweep: Sweep) -> Iterator[tuple[str, str, Table]]:
    """The same without single trials."""
    verdicts = (
        ("What ours is to reach", "Ours with our kernels, the others with S-LoRA's.", claims.ours(sweep)),
        (
            "Equal kernels",
            "The same kernels on both sides: placement and routing alone.",
            claims.ablation(sweep),
        ),
        ("Part by part", "Ours with one part exchanged, over ours.", claims.parts(sweep)),
        ("LoRAServe's claims", "As published: S-LoRA's kernels on all sides.", claims.reproduction(sweep)),
    )
    for heading, words, rows in verdicts:
        if known := [one for one in rows if not math.isnan(one.mean)]:
            yield heading, words, [claims.HEAD, *map(claims.cells, known)]
    for slo_s in slos(sweep):
        words = "Requests/s, mean over seeds (lowest … highest); 0 where not even the least load was within."
        yield f"Most load with P95 TTFT ≤ {slo_s:g} s", words, loads(sweep, slo_s)
    if sweep.needs:
        yield "Hosts needed", "Mean over seeds; a dash where the most that were tried are not enough.", needs(sweep)


def trials(sweep: Sweep) -> Table:
    """Each trial, calm and disturbed."""
    head = ("trial", "setting", "seed", "system", "hosts", "load", "calm", "disturbed", "ratio")
    rows = [
        (
            one.disturbance,
            one.case.setting,
            str(one.case.seed),
            one.case.system,
            str(one.case.hosts),
            f"{one.rate:.1f}/s",
            milliseconds(one.calm_s),
            milliseconds(one.disturbed_s),
            f"{one.disturbed_s / one.calm_s:.2f}",
        )
        for one in sorted(sweep.trials, key=lambda one: (one.disturbance, one.case.setting, one.case.seed, one.rate))
    ]
    return [head, *rows]


def loads(sweep: Sweep, slo_s: float) -> Table:
    """Settings down, systems across, each with the kernels it is shown under."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in limits(sweep, slo_s):
        found.setdefault(one.case.setting, {}).setdefault(one.case.system, []).append(one.rate)
    systems = list(dict.fromkeys(system for row in found.values() for system in row))
    return [
        ("setting", *systems),
        *((setting, *(_spread(row.get(system, ())) for system in systems)) for setting, row in found.items()),
    ]


def needs(sweep: Sweep) -> Table:
    """Settings and loads down, systems across."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for one in shown_needs(sweep):
        row = (one.case.setting, f"{one.rate:g}/s", f"{one.case.slo_s:g} s")
        found.setdefault(row, {}).setdefault(one.case.system, []).append(one.hosts)
    systems = list(dict.fromkeys(system for row in found.values() for system in row))
    return [
        ("setting", "load", "P95 TTFT ≤", *systems),
        *((*row, *(_mean(of, system) for system in systems)) for row, of in found.items()),
    ]


def limits(sweep: Sweep, slo_s: float) -> list[Limit]:
    """Those of one service level, each system under the kernels it is shown with."""
    return [
        one for one in sweep.limits if one.case.slo_s == slo_s and one.case.kernels == shown_kernels(one.case.system)
    ]


def shown_needs(sweep: Sweep) -> list[Need]:
    """Each system under the kernels it is shown with."""
    return [one for one in sweep.needs if one.case.kernels == shown_kernels(one.case.system)]


def slos(sweep: Sweep) -> list[float]:
    """The service levels that were swept, in seconds."""
    return sorted({one.case.slo_s for one in sweep.limits})


def _spread(rates: tuple[float, ...] | list[float]) -> str:
    if not rates:
        return "-"
    mean = f"{math.fsum(rates) / len(rates):.1f}"
    return mean if len(rates) == 1 else f"{mean} ({min(rates):.1f} … {max(rates):.1f})"


def _mean(of: Mapping[str, list[float]], system: str) -> str:
    hosts = of.get(system, [math.inf])
    return "-" if math.isinf(max(hosts)) else f"{math.fsum(hosts) / len(hosts):.3g}"
