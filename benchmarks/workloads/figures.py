"""What a workload is, in numbers. Owns: these numbers and their text. Does not: make workloads."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.workloads.records import Workload

QUANTILES = (0.1, 0.5, 0.9, 0.99)
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one workload with at least one request."""

    requests: int
    span_s: float
    requests_per_s: float
    gaps_cv: float
    """Coefficient of variation; 1 for Poisson arrivals, NaN for fewer than two gaps."""
    peak_over_mean: float
    """Requests of the busiest minute, in those of a mean one; 1 for less than a minute."""
    prompt_mean: float
    prompt_quantiles: tuple[float, ...]
    output_mean: float
    output_quantiles: tuple[float, ...]
    adapters_asked: int
    adapters: int
    requests_of: tuple[tuple[str, int], ...]
    """The most asked for first; without the base model."""
    tokens_of_rank: Mapping[int, int]
    """Prompt and answer; rank 0 is the base model."""


def figures(workload: Workload) -> Figures:
    """The numbers of a workload.

    Raises: ValueError if it has no requests.
    """
    if not workload.arrivals:
        raise ValueError(f"workload {workload.name} has no requests; raise its rate or its duration")
    at_s = np.array([one.at_s for one in workload.arrivals])
    prompt = np.array([one.prompt_tokens for one in workload.arrivals])
    output = np.array([one.output_tokens for one in workload.arrivals])
    rank = np.array([workload.ranks.get(one.adapter, 0) for one in workload.arrivals])
    duration_s = float(workload.facts.get("duration_s", workload.span_s)) or 1.0
    gaps_s = np.diff(at_s)
    minute_s = min(_MINUTE_S, duration_s)
    asked = Counter(one.adapter for one in workload.arrivals if one.adapter)
    return Figures(
        requests=len(at_s),
        span_s=workload.span_s,
        requests_per_s=len(at_s) / duration_s,
        gaps_cv=float(gaps_s.std() / gaps_s.mean()) if len(gaps_s) > 1 and gaps_s.any() else np.nan,
        peak_over_mean=float(np.bincount((at_s / minute_s).astype(int)).max() * duration_s / minute_s / len(at_s)),
        prompt_mean=float(prompt.mean()),
        prompt_quantiles=tuple(np.quantile(prompt, QUANTILES).tolist()),
        output_mean=float(output.mean()),
        output_quantiles=tuple(np.quantile(output, QUANTILES).tolist()),
        adapters_asked=len(asked),
        adapters=len(workload.ranks),
        requests_of=tuple(asked.most_common()),
        tokens_of_rank={int(one): int((prompt + output)[rank == one].sum()) for one in np.unique(rank)},
    )


def text(workload: Workload, top: int) -> str:
    """The numbers for people, with so many adapters."""
    found = figures(workload)
    tokens = sum(found.tokens_of_rank.values())
    heads = "".join(f"{f'{quantile:.0%}':>8}" for quantile in QUANTILES)
    lines = [
        f"workload {workload.name}",
        *(f"  {key}: {value}" for key, value in workload.facts.items()),
        f"requests      {found.requests:,} over {found.span_s:,.1f} s, {found.requests_per_s:.3f} requests/s",
        f"gaps          coefficient of variation {found.gaps_cv:.2f}; busiest minute {found.peak_over_mean:.2f} x mean",
        f"{'tokens':<14}{'mean':>8}{heads}",
        _length_line("  prompt", found.prompt_mean, found.prompt_quantiles),
        _length_line("  answer", found.output_mean, found.output_quantiles),
        f"adapters      {found.adapters_asked:,} of {found.adapters:,} asked for, half the times {_top_half(found)}",
        *(
            f"  {name:<24} rank {workload.ranks[name]:>3} {count / found.requests:>7.1%}"
            for name, count in found.requests_of[:top]
        ),
        f"{'tokens per rank':<16}{'adapters':>10}{'tokens':>16}",
        *(
            f"  {f'rank {rank}' if rank else 'base model':<14}"
            f"{sum(one == rank for one in workload.ranks.values()):>10,}{count:>16,} {count / tokens:>7.1%}"
            for rank, count in found.tokens_of_rank.items()
        ),
    ]
    return "\n".join(lines)


def _top_half(found: Figures) -> int:
    """How many adapters, the most asked for, get half of all requests for adapters."""
    sums = np.cumsum([0, *(count for _, count in found.requests_of)])
    return int(np.searchsorted(sums, sums[-1] / 2))


def _length_line(name: str, mean: float, quantiles: tuple[float, ...]) -> str:
    return f"{name:<14}{mean:>8.0f}" + "".join(f"{value:>8.0f}" for value in quantiles)
