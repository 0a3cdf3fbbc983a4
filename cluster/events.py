"""What can happen to the control plane, and what it orders. Owns: these frozen records. Does not: decide or act.

`commands = coordinator.step(event)`. Every number and every call is answered exactly once: a numbered command by
`Done`, `FolderRead` or `CommandFailed` (or by the loss of its host), a call by `Answer` or `Refuse`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.view import Adapter, HostLoad, HostName, HostSpec, HostState, Registration
from lorajax.errors import LorajaxError
from lorajax.spec import AdapterSpec, Level, Version

type CallId = int
"""One administrative call that waits at the shell for its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; a few times a second."""

    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What the registry held when the coordinator started; comes first."""

    registrations: tuple[Registration, ...]
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJoined:
    """A host connected, or connected again."""

    spec: HostSpec
    state: HostState
    copies: Mapping[Version, Level]
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBeat:
    """A host is alive."""

    host: HostName
    incarnation: int
    state: HostState
    load: HostLoad
    tokens: Mapping[Version, int]
    """Tokens of each adapter since the beat before: prompts that came, and what was generated."""
    copies: Mapping[Version, Level] | None
    """All it knows, where that changed."""
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLeft:
    """A host's connection ended."""

    host: HostName
    incarnation: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command was carried out; what it changed is in the next beat's copies, which came before this."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderRead:
    """A `ReadFolder` was carried out: its host holds the adapter."""

    number: int
    spec: AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailed:
    """A command was not carried out."""

    number: int
    error: LorajaxError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAsked:
    """Somebody wants a folder registered."""

    call: CallId
    name: str
    path: str
    replace: bool = False
    pin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadAsked:
    """Somebody wants a name gone."""

    call: CallId
    name: str
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PinAsked:
    """Somebody wants an adapter kept on the devices that serve it, or let go."""

    call: CallId
    name: str
    pin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainAsked:
    """Somebody wants a host to finish what runs and take no more."""

    call: CallId
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceAsked:
    """Somebody wants a round now."""

    call: CallId


type Event = (
    Tick
    | Restored
    | HostJoined
    | HostBeat
    | HostLeft
    | Done
    | FolderRead
    | CommandFailed
    | LoadAsked
    | UnloadAsked
    | PinAsked
    | DrainAsked
    | RebalanceAsked
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFolder:
    """The host reads a PEFT folder, keeps the adapter in memory and says what it is."""

    number: int
    host: HostName
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchAdapter:
    """The host brings an adapter into its memory: from the first peer that can, else from the store.

    With a ticket the first peer sends it by a collective; a stream from the peers is the way back.
    """

    number: int
    host: HostName
    adapter: Adapter
    peers: tuple[HostName, ...]
    ticket: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAdapter:
    """The other half of a ticket: the host sends an adapter by a collective."""

    number: int
    host: HostName
    version: Version
    target: HostName
    ticket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropAdapter:
    """The host forgets an adapter; requests that run on it finish."""

    number: int
    host: HostName
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class PinAdapter:
    """The host keeps an adapter on its device, or lets it go."""

    number: int
    host: HostName
    version: Version
    pin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainHost:
    """The host takes no more requests and ends once the running ones have."""

    number: int
    host: HostName


type HostCommand = ReadFolder | FetchAdapter | SendAdapter | DropAdapter | PinAdapter | DrainHost


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """Make a registration durable before anything after it is carried out."""

    registration: Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Take a name out of the registry, durably."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """The table has changed: tell the gateways and who watches the placement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A call went well."""

    call: CallId
    registration: Registration | None = None
    """Of Load, Unload and Pin."""
    count: int = 0
    """Drain: requests that ran or waited on the host at its last beat. Rebalance: moves that were ordered."""
    round: int = 0
    """Of Rebalance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """A call cannot be carried out."""

    call: CallId
    error: LorajaxError


type Command = HostCommand | Save | Forget | Publish | Answer | Refuse
