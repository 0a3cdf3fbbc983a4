"""What the control plane believes of hosts, adapters and shares. Owns: these frozen records. Does not: decide or act.

The coordinator keeps them, the gateway routes by them, the simulator replays them: the same values everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from lorajax.spec import Level, Version, num_rank_pages

HostName = NewType("HostName", str)

MAX_PEERS = 3
"""Holders that a host is told of: metadata is small, and each that does not answer costs a deadline before the store
is read."""


class HostState(StrEnum):
    """Whether a host may be sent requests."""

    STARTING = "starting"
    """Connected, still loading or compiling."""
    SERVING = "serving"
    DRAINING = "draining"
    LOST = "lost"
    """Gone or silent; it may come back under a larger incarnation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """What a host says of itself when it joins."""

    name: HostName
    address: str
    """HOST:PORT where its leader answers requests and its peers."""
    incarnation: int
    """Larger after every start: what an earlier life still says is ignored."""
    host_bytes: int
    """Host memory for adapters."""
    num_adapter_pages: int
    """Device pages for adapters, page 0 not counted."""
    max_sequences: int
    """Sequences it decodes together."""
    can_collect: bool = False
    """Whether it shares a JAX world, so that adapters can reach it by a collective."""
    speed: float = 1.0
    """Its throughput relative to the host that was profiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """How busy a host is, as of its last beat."""

    num_running: int = 0
    num_waiting: int = 0
    waiting_tokens: int = 0
    """Prompt tokens of the requests that wait."""
    kv_pages_free: int = 0
    kv_pages_total: int = 0
    adapter_pages_free: int = 0
    adapter_pages_total: int = 0
    tokens_per_s: float = 0.0
    """Generated, over the last seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One host as it was last heard of."""

    spec: HostSpec
    state: HostState
    load: HostLoad = field(default_factory=HostLoad)
    last_beat_s: float = 0.0
    copies: Mapping[Version, Level] = field(default_factory=dict)
    """Adapters it knows; HOST and DEVICE are copies in memory, STORE is none."""

    def holds(self, version: Version) -> bool:
        """Whether the adapter is in its memory."""
        return self.copies.get(version, Level.STORE) is not Level.STORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One registered adapter version."""

    version: Version
    rank: int
    num_bytes: int
    """Bytes of its pages."""
    path: str
    """Its store: the folder it was read from."""
    min_copies: int = 1
    """Hosts that must hold it."""

    @property
    def num_pages(self) -> int:
        """Device pages it takes."""
        return num_rank_pages(self.rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What one name stands for: the durable row of the registry."""

    name: str
    adapter: Adapter
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """Part of an adapter's traffic on one host; an adapter's shares sum to 1."""

    host: HostName
    share: float


type Shares = Mapping[Version, tuple[Share, ...]]
"""Where each adapter is to be. A share of 0 is a copy without planned traffic: kept against a loss, or for a spill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Tokens (prompt and generated) per second that an adapter will need in the next interval."""

    mean: float
    high: float
    """The quantile that placement plans for; at least `mean`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Everything a gateway needs to route, as of one moment."""

    number: int
    """Larger after every change."""
    round: int
    """Of the placement."""
    hosts: Mapping[HostName, HostView]
    registrations: Mapping[str, Registration]
    """By name."""
    shares: Shares
