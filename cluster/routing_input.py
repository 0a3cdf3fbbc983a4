"""What a routing is asked, and what it is. Owns: these records. Does not: choose, or estimate (host_time.py does)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from cluster.host_time import HostTime, Work
from cluster.view import HostName, Share
from lorajax.spec import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """What the plan is worth, and what a routing may go by besides."""

    patience_s: float = 0.1
    """Delay accepted so that traffic follows the shares, or stays within the plan. Small follows the queues; large
    follows the plan. Ours takes a tenth of the latency target where that is less."""
    avoid_s: float = 2.0
    """A host to which a connection failed is avoided for this long."""
    ttft_p95_s: float = 2.0
    """The latency target: request to first token."""
    tbt_p95_s: float = 0.2
    """Between two tokens."""
    seed: int = 0
    """Of the chance that a routing may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the router needs to know of a request."""

    versions: tuple[Version, ...]
    """Its adapters; none is the base model."""
    prompt_tokens: int
    max_tokens: int
    deadline_s: float | None = None
    """On the clock of `now_s`."""


class Candidate(NamedTuple):
    """A host that may take the request; a tuple, for one is made of every host that is judged."""

    name: HostName
    host: HostTime
    work: Work
    """What the request asks of it."""
    first_s: float
    """Until the first token, were it sent there now."""
    last_s: float


@dataclass(frozen=True, slots=True)
class View:
    """What is the same for all candidates of one request."""

    shares: Sequence[Share]
    """The plan of its largest adapter; empty for the base model."""
    leads: Mapping[HostName, float] | None
    """How far each host with a share is ahead of it, in requests; None for the base model."""
    cost_s: Callable[[int], float]
    """Host-seconds per token, by rank."""
    mixing: float
    """As in the operating points."""
    copy_s: Callable[[Version], float]
    """What a copy that nobody planned must be worth."""
    config: RouterConfig
    random: Random


type Score = Callable[[Ask, Candidate, View], float]
"""How bad a host would be for a request; the lowest is taken, of equal ones the first by name."""

EVERY = 2**31
"""More hosts than there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How a host is chosen: which ones are judged, and how."""

    score: Score
    max_planned: int = EVERY
    """Hosts of the plan that are judged: of more, those furthest behind their share."""
    num_spill: int = EVERY
    """Least busy hosts that are judged beside them."""
