"""What a simulation is told besides workload and system. Owns: these records. Does not: act by them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from benchmarks.outcomes.statistics import Slo
from benchmarks.simulator.hardware import Hardware
from cluster.control_service import TICK_S
from cluster.membership import BEAT_S
from lorajax.spec import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A host that goes, and perhaps comes back with empty memory."""

    host: int
    """Its number, from 0."""
    at_s: float
    """After the start of the workload."""
    back_s: float = math.inf
    """When it has started anew, on the same clock."""
    is_silent: bool = False
    """Cut off, so that only silence tells of it; else its connections break at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortion:
    """What the coordinator is made to believe of demand: each adapter's tokens, times one of two factors by chance."""

    low: float = 1.0
    high: float = 1.0
    seed: int = 0

    @property
    def is_any(self) -> bool:
        """Whether it hears of other tokens than there were."""
        return (self.low, self.high) != (1, 1)

    def seen(self, version: str, count: int) -> int:
        """The tokens that the coordinator hears of."""
        return round(count * Random(f"{self.seed} {version}").choice((self.low, self.high)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """The cluster, what it aims at, and what befalls it."""

    hardware: Hardware
    """Kernels included."""
    num_hosts: int
    slo: Slo
    interval_s: float = 30.0
    """Between rounds."""
    budget_bytes: int = 2**30
    """As `[placement] budget_bytes`."""
    warm_s: float = 0.0
    """Before that requests do not count against the SLO, nor does what hosts do, hold and move: the first rounds know
    nothing of demand."""
    min_copies: int = 1
    deadline_s: float | None = None
    """Of each request; None: it waits for ever."""
    drain_s: float = 600.0
    """How long after the last arrival the run ends; what is open then has exceeded its deadline."""
    beat_s: float = BEAT_S
    tick_s: float = TICK_S
    losses: tuple[Loss, ...] = ()
    distortion: Distortion = Distortion()
    keeps_tokens: bool = False
    """Whether outcomes say when each token came: a number for every token."""
    keeps_placements: bool = True
    leaps: bool = True
    """Whether steps that are alike are taken at once; the result is the same."""
    versions: Mapping[str, Version] = field(default_factory=dict)
    """Of adapters whose versions matter, by name: policies may draw by them. Others get the hash of their name."""
    seed: int = 0
    """Of the routing's chance."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if self.num_hosts < 1:
            raise ValueError(f"num_hosts is {self.num_hosts}; a cluster has at least 1")
        for loss in self.losses:
            if not 0 <= loss.host < self.num_hosts:
                raise ValueError(f"losses name host {loss.host}; there are 0 … {self.num_hosts - 1}")
            if loss.back_s < loss.at_s:
                raise ValueError(f"losses have a host back at {loss.back_s} s, before it goes at {loss.at_s} s")
        for first, second in pairwise(sorted(self.losses, key=lambda loss: (loss.host, loss.at_s))):
            if first.host == second.host and second.at_s <= first.back_s:
                raise ValueError(f"losses have host {first.host} go twice, but it is not back at {second.at_s} s")
