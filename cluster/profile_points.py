"""From what an engine did under load to its operating points. Owns: which trials are made, and what follows from them.

Does not: make a trial (closed_loop.py), or write the points (operating_points.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from cluster.config import ServeConfig
from cluster.operating_points import OperatingPoints
from lorajax.spec import MAX_RANK

type Kind = tuple[int, ...]
"""The ranks of a trial's requests, which take turns; 0 is the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What an engine did with so many requests in flight."""

    concurrency: int
    tokens_per_s: float
    """Prompt and generated."""
    ttft_p95_s: float
    """Request to first token."""
    tbt_p95_s: float
    """Between two tokens of a request."""

    def __str__(self) -> str:
        """In one line."""
        times = f"p95 TTFT {self.ttft_p95_s:.3g} s, p95 TBT {self.tbt_p95_s * 1e3:.3g} ms"
        return f"{self.concurrency} at once: {self.tokens_per_s:,.0f} tokens/s, {times}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """The latency target."""

    ttft_p95_s: float = 2.0
    tbt_p95_s: float = 0.2

    def is_met(self, trial: Trial) -> bool:
        """Whether a trial was within it."""
        return trial.ttft_p95_s <= self.ttft_p95_s and trial.tbt_p95_s <= self.tbt_p95_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """Everything that `lorajax profile` needs."""

    serve: ServeConfig
    """What is measured: its model, engine and kernels."""
    slo: Slo
    ranks: tuple[int, ...] = (8, 16, 32, 64, 128)
    prompt_tokens: int = 64
    """Of a request, on average: each has half as many to half as many again."""
    new_tokens: int = 32
    """Generated for a request, on average; spread as the prompts are."""
    trial_s: float = 2.5
    """How long each trial is measured, at least."""

    def __post_init__(self) -> None:
        """Refuse ranks from which mixing could not be told, or that nobody could serve."""
        if len(set(self.ranks)) < 2 or not all(1 <= rank <= MAX_RANK for rank in self.ranks):
            raise ValueError(f"ranks is {self.ranks}; name two or more of 1 … {MAX_RANK}, such as 8,128")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What is measured: the base, each rank alone, and the smallest together with the largest.

        In an order in which those three come one after the other: a machine changes from one minute to the next.
        """
        low, *others, high = sorted(set(self.ranks))
        return (0,), *((rank,) for rank in others), (low,), (high,), (low, high)


def levels(max_sequences: int) -> tuple[int, ...]:
    """Requests in flight, trial after trial: 1, 2, 4 … up to twice as many as are decoded together."""
    return tuple(2**power for power in range((2 * max_sequences).bit_length()))


def wants_more(trials: Sequence[Trial], slo: Slo) -> bool:
    """Whether the next level is worth a trial: until one misses the target, but at least two, which mixing needs."""
    return len(trials) < 2 or slo.is_met(trials[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """All that was measured."""

    slo: Slo
    trials: Mapping[Kind, Sequence[Trial]]
    """By rising concurrency, for all `ProfileConfig.kinds`."""
    fetch_bytes_per_s: float

    def sustained(self, kind: Kind) -> Trial:
        """The trial with most tokens/s within the target; that of one request at a time where none was."""
        trials = self.trials[kind]
        return max(filter(self.slo.is_met, trials), key=lambda trial: trial.tokens_per_s, default=trials[0])

    @property
    def points(self) -> OperatingPoints:
        """What a coordinator reads. A larger rank never costs less in it: where chance said so, both get their mean."""
        alone = sorted(kind for kind in self.trials if len(kind) == 1)
        costs_s = _rising([1 / self.sustained(kind).tokens_per_s for kind in alone])
        return OperatingPoints(
            tokens_per_s={rank: 1 / cost_s for (rank,), cost_s in zip(alone, costs_s, strict=True)},
            mixing=min(1.0, max(0.0, self._mixing or 0.0)),
            fetch_bytes_per_s=self.fetch_bytes_per_s,
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the points do not show, in words."""
        missed = [kind for kind in self.trials if not self.slo.is_met(self.sustained(kind))]
        words = [f"{name(kind)} misses the target with one request at a time, and stands for that" for kind in missed]
        mixing, (low, high) = self._mixing, self._mixed
        if mixing is None:
            words.append(f"mixing is taken as 0: rank {high} cost no more than rank {low}, so it cannot be told")
        elif not 0 <= mixing <= 1:
            words.append(f"mixing came out as {mixing:.2f}, and is taken as {self.points.mixing:.0f}")
        return tuple(words)

    @property
    def _mixed(self) -> Kind:
        return next(kind for kind in self.trials if len(kind) > 1)

    @property
    def _mixing(self) -> float | None:
        """How far a token's cost in the mix is from the mean of both ranks towards that of the larger one.

        The median of the levels at which there is a mix. None where the larger rank never cost more.
        """
        low, high = self._mixed
        parts = []
        for alone, other, mixed in zip(self.trials[low,], self.trials[high,], self.trials[self._mixed], strict=False):
            low_s, high_s, mixed_s = (1 / trial.tokens_per_s for trial in (alone, other, mixed))
            if mixed.concurrency > 1 and high_s > low_s:
                parts.append((mixed_s - (low_s + high_s) / 2) / ((high_s - low_s) / 2))
        return median(parts) if parts else None


def name(kind: Kind) -> str:
    """The ranks in words."""
    return " + ".join(f"rank {rank}" if rank else "base" for rank in kind)


def percentile_95(values: Sequence[float]) -> float:
    """The smallest value that at least 95 % of the values do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _rising(costs: Sequence[float]) -> list[float]:
    """The nearest series, by least squares, that never falls. Source: pool adjacent violators, Ayer et al. 1955."""
    pools: list[list[float]] = []
    for cost in costs:
        pools.append([cost])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return [fmean(pool) for pool in pools for _ in pool]
