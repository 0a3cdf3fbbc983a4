"""How a workload is made out of parts. Owns: the record of the parts, the drawing, the facts. Names no setting.

Each part draws from its own stream of the seed: other popularity leaves the times as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.workloads.arrivals import STORY_S, Coming, Ints, Span, Times, poisson
from benchmarks.workloads.lengths import Lengths
from benchmarks.workloads.popularity import Popularity
from benchmarks.workloads.ranks import Mix
from benchmarks.workloads.records import Arrival, Workload


@dataclass(frozen=True, slots=True)
class Part[T]:
    """One of the functions, and what the facts call it."""

    label: str
    make: T


def chosen[T](kind: str, label: str, table: Mapping[str, T]) -> Part[T]:
    """The part of this name; ValueError, which starts with `kind` and lists the names, if there is none."""
    if label not in table:
        raise ValueError(f"{kind} {label!r} is not known; write one of {', '.join(table)}")
    return Part(label, table[label])


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """An adapter that nobody asks for, until everybody does: Poisson arrivals on top of all others."""

    adapter: str = "cold"
    rank: int = 128
    times: float = 0.5
    """Its requests/s, in the rate of all others."""
    begins: float = 0.5
    lasts: float = 0.1
    """Both as parts of the duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All parts of a workload, with a rate and a duration that a caller may change."""

    name: str
    arrivals: Part[Times]
    popularity: Part[Popularity]
    ranks: Part[Mix]
    lengths: Part[Lengths]
    adapters: tuple[str, ...]
    """Names, the popular ones first."""
    tenants: tuple[str, ...] = ("",)
    """Of the rows of the arrivals, from the start again where they end."""
    crowds: tuple[Crowd, ...] = ()
    rate: float = 8.0
    """Requests/s, crowds aside: the mean over the duration."""
    duration_s: float = 600.0
    pace: float | None = None
    """How many times faster than in life the eight hours of arrivals and popularity pass, from a moment that the seed
    chooses. None: all of them pass, however short the duration."""

    def __post_init__(self) -> None:
        """Refuse what has no arrivals."""
        for field, value in (("rate", self.rate), ("duration_s", self.duration_s), ("pace", self.pace)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{field} is {value:g}; write a number above 0")
        if not self.adapters:
            raise ValueError("adapters is 0; write 1 or more")

    def __call__(self, *, rate: float = 0.0, duration_s: float = 0.0, seed: int = 0) -> Workload:
        """The workload; rate and duration are the setting's own where 0."""
        return replace(self, rate=rate or self.rate, duration_s=duration_s or self.duration_s)._drawn(seed)

    def _drawn(self, seed: int) -> Workload:
        times, who, how_long, ranking, crowding, when = map(
            np.random.default_rng, np.random.SeedSequence(seed).spawn(6)
        )
        span = self._span(when)
        ranks = self.ranks.make(len(self.adapters), ranking)
        coming = self.arrivals.make(self.rate, span, times)
        picks = self.popularity.make(coming, ranks, span, who)
        arrivals = _arrivals(
            coming, self.lengths.make(coming.rows, how_long), (*self.adapters, ""), picks, self.tenants
        )
        for crowd in self.crowds:
            arrivals = sorted(arrivals + self._crowd(crowd, crowding), key=lambda one: one.at_s)
        return Workload(
            name=self.name,
            arrivals=tuple(arrivals),
            ranks=dict(zip(self.adapters, ranks.tolist(), strict=True))
            | {one.adapter: one.rank for one in self.crowds},
            facts=self._facts(seed, span),
        )

    def _span(self, random: np.random.Generator) -> Span:
        lasts = 1.0 if self.pace is None else min(1.0, self.duration_s * self.pace / STORY_S)
        return Span(duration_s=self.duration_s, begins=random.random() * (1 - lasts), lasts=lasts)

    def _crowd(self, crowd: Crowd, random: np.random.Generator) -> list[Arrival]:
        coming = poisson(self.rate * crowd.times, Span(duration_s=self.duration_s * crowd.lasts), random)
        late = replace(coming, at_s=coming.at_s + crowd.begins * self.duration_s)
        nobody = np.zeros(len(late.at_s), np.int64)
        return _arrivals(late, self.lengths.make(late.rows, random), (crowd.adapter,), nobody, ("",))

    def _facts(self, seed: int, span: Span) -> dict[str, str | int | float]:
        crowds = {f"crowd on {it.adapter}": f"{it.times:g} x for {it.lasts:g} from {it.begins:g}" for it in self.crowds}
        facts: dict[str, str | int | float] = {
            "arrivals": self.arrivals.label,
            "popularity": self.popularity.label,
            "ranks": self.ranks.label,
            "lengths": self.lengths.label,
            "adapters": len(self.adapters),
            "rate": self.rate,
            "duration_s": self.duration_s,
            "seed": seed,
        }
        if self.pace is not None:
            facts |= {"pace": self.pace, "begins": span.begins}
        return facts | crowds


def _arrivals(
    coming: Coming, lengths: tuple[Ints, Ints], names: tuple[str, ...], picks: Ints, tenants: tuple[str, ...]
) -> list[Arrival]:
    """One arrival for each time; the last of `names` is that of pick -1."""
    return list(
        map(
            Arrival,
            coming.at_s.tolist(),
            lengths[0].tolist(),
            lengths[1].tolist(),
            [names[pick] for pick in picks.tolist()],
            [tenants[row] for row in (coming.rows % len(tenants)).tolist()],
        )
    )
