"""A workload: who asks for how much of which adapter, and when. Owns: these records. Does not: make, read or send any.

The simulator, the driver of real servers and every report take the same records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request to come."""

    at_s: float
    """After the start of the workload."""
    prompt_tokens: int
    output_tokens: int
    adapter: str = ""
    """Empty: the base model."""
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Arrivals in order of time, and the adapters that they name; checked here, once."""

    name: str
    arrivals: tuple[Arrival, ...]
    ranks: Mapping[str, int]
    """Of every adapter, also of those that nobody asks for."""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    """How it was made: sources, seed, rate; goes into every result as it is."""

    def __post_init__(self) -> None:
        """Refuse arrivals that are out of order, or name an adapter without a rank."""
        for before, after in zip(self.arrivals, self.arrivals[1:], strict=False):
            if after.at_s < before.at_s:
                raise ValueError(f"arrival at {after.at_s} s comes after one at {before.at_s} s; sort them by time")
        if unknown := {one.adapter for one in self.arrivals} - self.ranks.keys() - {""}:
            raise ValueError(f"adapter {min(unknown)!r} has no rank; give `ranks` one for every adapter")

    @property
    def span_s(self) -> float:
        """When the last request comes."""
        return self.arrivals[-1].at_s if self.arrivals else 0.0
