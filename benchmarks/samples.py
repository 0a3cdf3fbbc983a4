"""Measured series and the claims made of them. Owns: ratios, medians, quartiles, whether a goal is met.

Does not: measure or print. Both sides of a claim take turns, mostly one a round; a ratio is taken within its turn, so
that a slow minute of the machine hits both of its sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

type Series = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One row of the table: ours against a reference."""

    case: str
    unit: str
    ours: str
    """Name of our series."""
    reference: str
    """Name of the series that ours is divided by."""
    goal: float | None = None
    """Of the ratio; None where the number is only reported."""
    goal_is: Literal["at least", "at most"] = "at least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Quartiles of a series."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Quartiles with linear interpolation."""
        low, median, high = map(float, np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(low=low, median=median, high=high)


def judged(claim: Claim, series: Series) -> dict[str, object] | None:
    """The claim with its numbers, as JSON; None where a side was not measured."""
    ours, reference = series.get(claim.ours, ()), series.get(claim.reference, ())
    # A slow peer takes part in the first rounds only.
    pairs = list(zip(ours, reference, strict=False))
    if not pairs:
        return None
    ratio = Spread.of([mine / other for mine, other in pairs])
    return asdict(claim) | {
        "ours_spread": asdict(Spread.of([mine for mine, _ in pairs])),
        "reference_spread": asdict(Spread.of([other for _, other in pairs])),
        "ratio": asdict(ratio),
        "num_rounds": len(pairs),
        "is_met": None if claim.goal is None else is_met(claim, ratio.median),
    }


def is_met(claim: Claim, ratio: float) -> bool:
    """Whether the ratio reaches the goal, which must exist."""
    assert claim.goal is not None
    return ratio >= claim.goal if claim.goal_is == "at least" else ratio <= claim.goal
