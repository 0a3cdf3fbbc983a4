"""What the parts of one simulation share. Owns: that record. Does nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.simulator.clock import Action, Clock
from benchmarks.simulator.config import SimulationConfig
from benchmarks.simulator.links import Links
from cluster.view import Adapter, HostName
from lorajax.spec import Version

type Keep = Callable[[Adapter, Action], None]
"""Makes an adapter that has come servable, then does what follows."""


class Holder(Protocol):
    """A host's memory."""

    held: dict[Version, Adapter]


@dataclass(eq=False, slots=True)
class Moved:
    """Copies that have come to hosts."""

    num_bytes: int = 0
    num_copies: int = 0

    def restart(self) -> None:
        """Count from now on."""
        self.num_bytes = self.num_copies = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One simulation."""

    config: SimulationConfig
    clock: Clock
    links: Links
    has_pool: bool = True
    """Whether hosts give each other adapters."""
    moved: Moved = field(default_factory=Moved)
    holders: dict[HostName, Holder] = field(default_factory=dict)
    """The hosts that live."""
