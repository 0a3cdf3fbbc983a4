"""One simulation, as a sweep asks for it. Owns: its record, what may befall it, who answers. Does nothing."""

from dataclasses import dataclass
from typing import Protocol

from benchmarks.outcomes import claims
from benchmarks.outcomes.sweeps import Case, Point

AS_IT_IS = ""
"""The setting, crowds and all."""
CALM = "calm"
"""Without crowds; so are all the others but CROWD and UNBURDENED."""
FORECAST = "forecasts half or half as much again, adapter by adapter"
LOSS = "a host lost at the peak"
CROWD = "a crowd on a cold adapter of rank 128, the others beside it"
UNBURDENED = "all adapters everywhere, at no cost"
"""With the crowds of the setting; whoever places otherwise has nothing to place."""
RANK_8 = "rank 8 alone"
INTERFERENCE = claims.INTERFERENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One simulation."""

    case: Case
    rate: float
    """Requests/s."""
    variant: str = AS_IT_IS
    """One of the names above."""


class Source(Protocol):
    """Who simulates; goes to other processes as it is."""

    def point(self, task: Task) -> Point:
        """What comes of it; of a variant, for the requests that it does not add."""

    def kept(self, task: Task) -> Point | None:
        """The same where it keeps the SLO, and None where it does not, which is found out sooner."""

    def guess(self, case: Case) -> float:
        """A load in requests/s near which the highest one within the SLO may lie."""

    def is_possible(self, case: Case, rate: float) -> bool:
        """Whether any system at all could keep the SLO at so many requests/s."""

    def least_rate(self) -> float:
        """Fewer requests/s say nothing about a 95th percentile."""

    def facts(self) -> dict[str, object]:
        """What all simulations share, for the results."""
