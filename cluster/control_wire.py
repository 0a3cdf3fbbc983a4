"""Messages of the control plane: records to protobuf and back. With view_wire.py the only place that knows both.

Owns: that what one process of a cluster meant is what another one reads. Does not: decide, look anything up, or open
sockets. Hosts and coordinator run the same lorajax, so what could not come from it is a bug and raises ValueError.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from cluster import control_pb2 as pb
from cluster import view_wire
from cluster.events import (
    CommandFailed,
    Done,
    DrainHost,
    DropAdapter,
    FetchAdapter,
    FolderRead,
    HostBeat,
    HostCommand,
    HostJoined,
    PinAdapter,
    ReadFolder,
    SendAdapter,
)
from cluster.view import (
    Adapter,
    HostName,
    HostSpec,
    HostState,
    HostView,
    Registration,
    Share,
    Table,
)
from lorajax import errors
from lorajax.spec import AdapterSpec, Version

FETCH_KEY = "lorajax-fetch-bin"
TABLE_KEY = "lorajax-table"
"""Trailing metadata of the coordinator's answers: the number of the table that has what was asked for."""
"""Metadata of `Inference.Generate` on a host: a `fetch_hint` for each adapter that the host may lack."""

type Outcome = Done | FolderRead | CommandFailed

_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.LorajaxError)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What must be the same on every host, and what it calls itself."""

    fingerprint: str
    """Of model, dtype and software: hosts with another one are refused."""
    model: str
    software_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """An adapter, and where a host that lacks it finds it: peers, the best first, then its store."""

    adapter: Adapter
    peers: tuple[tuple[HostName, str], ...] = ()
    """(host, HOST:PORT)."""
    ticket: int | None = None
    """With one, the first peer sends it by a collective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How an adapter came."""

    way: str
    """"collective", "stream" or "store"; empty where it was here already."""
    num_bytes: int = 0
    seconds: float = 0.0


HERE = Arrival(way="")


def beat_to_proto(beat: HostBeat, uptime_s: float = 0.0) -> pb.Beat:
    """What a host says of itself twice a second."""
    return pb.Beat(
        state=beat.state.value,
        load=view_wire.load_to_proto(beat.load),
        tokens=[pb.Tokens(version=version, count=count) for version, count in beat.tokens.items()],
        copies=view_wire.copies_to_proto(beat.copies or {}),
        has_copies=beat.copies is not None,
        uptime_s=uptime_s,
    )


def beat_from_proto(host: str, incarnation: int, beat: pb.Beat, now_s: float) -> HostBeat:
    """The same, heard at `now_s` from that life of that host."""
    return HostBeat(
        host=HostName(host),
        incarnation=incarnation,
        state=HostState(beat.state),
        load=view_wire.load_from_proto(beat.load),
        tokens={Version(one.version): one.count for one in beat.tokens},
        copies=view_wire.copies_from_proto(beat.copies) if beat.has_copies else None,
        now_s=now_s,
    )


def hello_to_proto(spec: HostSpec, identity: Identity, beat: pb.Beat) -> pb.Hello:
    """What a host says first; `beat` has all its copies."""
    hello = view_wire.spec_to_proto(spec)
    hello.fingerprint = identity.fingerprint
    hello.model = identity.model
    hello.software_version = identity.software_version
    hello.beat.CopyFrom(beat)
    return hello


def hello_from_proto(hello: pb.Hello, now_s: float) -> HostJoined:
    """The same, heard at `now_s`."""
    return HostJoined(
        spec=view_wire.spec_from_proto(hello),
        state=HostState(hello.beat.state),
        copies=view_wire.copies_from_proto(hello.beat.copies),
        now_s=now_s,
    )


def command_to_proto(command: HostCommand, addresses: Mapping[HostName, str]) -> pb.HostCommand:
    """An order; peers that `addresses` lacks have gone, and are left out."""
    message = pb.HostCommand(number=command.number)
    match command:
        case ReadFolder(path=path):
            message.read.path = path
        case FetchAdapter(adapter=adapter, ticket=ticket):
            peers = tuple((peer, addresses[peer]) for peer in command.peers if peer in addresses)
            message.fetch.CopyFrom(_hint_to_proto(Hint(adapter=adapter, peers=peers, ticket=ticket)))
        case SendAdapter(version=version, target=target, ticket=ticket):
            message.send.CopyFrom(pb.SendAdapter(version=version, target=target, ticket=ticket))
        case DropAdapter(version=version):
            message.drop.version = version
        case PinAdapter(version=version, pin=pin):
            message.pin.CopyFrom(pb.PinAdapter(version=version, pin=pin))
        case DrainHost():
            message.drain.SetInParent()
    return message


def command_from_proto(message: pb.HostCommand, host: HostName) -> tuple[HostCommand, dict[HostName, str]]:
    """The order as `host` gets it, and the addresses of the peers that it names."""
    number = message.number
    match message.WhichOneof("kind"):
        case "read":
            return ReadFolder(number=number, host=host, path=message.read.path), {}
        case "fetch":
            hint = _hint_from_proto(message.fetch)
            peers = tuple(peer for peer, _ in hint.peers)
            command = FetchAdapter(number=number, host=host, adapter=hint.adapter, peers=peers, ticket=hint.ticket)
            return command, dict(hint.peers)
        case "send":
            send = message.send
            version, target = Version(send.version), HostName(send.target)
            return SendAdapter(number=number, host=host, version=version, target=target, ticket=send.ticket), {}
        case "drop":
            return DropAdapter(number=number, host=host, version=Version(message.drop.version)), {}
        case "pin":
            return PinAdapter(number=number, host=host, version=Version(message.pin.version), pin=message.pin.pin), {}
        case "drain":
            return DrainHost(number=number, host=host), {}
        case kind:
            raise ValueError(f"command {number} is of kind {kind!r}, which this lorajax does not know")


def fetch_hint(adapter: Adapter, peers: Iterable[tuple[HostName, str]]) -> bytes:
    """A value of FETCH_KEY: where a host finds the adapter, the best of the peers first."""
    return bytes(_hint_to_proto(Hint(adapter=adapter, peers=tuple(peers))).SerializeToString())


def hint_from_bytes(value: bytes) -> Hint:
    """The hint in a value of FETCH_KEY. Raises BadRequest: any caller can send one."""
    try:
        return _hint_from_proto(pb.FetchAdapter.FromString(value))
    except DecodeError:
        raise errors.BadRequest(f"metadata {FETCH_KEY} is not a message of this lorajax; leave it out") from None


def outcome_to_proto(outcome: Outcome, arrival: Arrival = HERE) -> pb.Outcome:
    """What became of an order; `arrival` where it was to bring an adapter."""
    message = pb.Outcome(number=outcome.number, way=arrival.way, bytes_moved=arrival.num_bytes, seconds=arrival.seconds)
    match outcome:
        case FolderRead(spec=spec):
            message.spec.CopyFrom(
                pb.AdapterSpec(version=spec.version, rank=spec.rank, targets=spec.targets, bytes=spec.num_bytes)
            )
        case CommandFailed(error=error):
            message.error, message.message = type(error).__name__, str(error)
    return message


def outcome_from_proto(message: pb.Outcome) -> Outcome:
    """What became of an order; an error of a class that is not known here is an EngineFailure."""
    if message.error:
        kind = _ERRORS.get(message.error, errors.EngineFailure)
        return CommandFailed(number=message.number, error=kind(message.message))
    if message.HasField("spec"):
        spec = message.spec
        version, targets = Version(spec.version), tuple(spec.targets)
        found = AdapterSpec(version=version, rank=spec.rank, targets=targets, num_bytes=spec.bytes)
        return FolderRead(number=message.number, spec=found)
    return Done(number=message.number)


def table_to_proto(table: Table) -> pb.Table:
    """The routing table; what nobody has registered has no shares there, and clocks stay at home."""
    return pb.Table(
        number=table.number,
        round=table.round,
        hosts=[_host_to_proto(host) for host in table.hosts.values()],
        entries=[
            pb.TableEntry(
                name=one.name,
                adapter=view_wire.adapter_to_proto(one.adapter),
                is_pinned=one.is_pinned,
                shares=[
                    pb.HostShare(host=share.host, share=share.share)
                    for share in table.shares.get(one.adapter.version, ())
                ],
            )
            for one in table.registrations.values()
        ],
    )


def table_from_proto(message: pb.Table) -> Table:
    """The same; no host has been heard of, as far as the reader's clock goes."""
    adapters = [view_wire.adapter_from_proto(entry.adapter) for entry in message.entries]
    return Table(
        number=message.number,
        round=message.round,
        hosts={HostName(host.hello.host): _host_from_proto(host) for host in message.hosts},
        registrations={
            entry.name: Registration(name=entry.name, adapter=adapter, is_pinned=entry.is_pinned)
            for entry, adapter in zip(message.entries, adapters, strict=True)
        },
        shares={
            adapter.version: tuple(Share(HostName(share.host), share.share) for share in entry.shares)
            for entry, adapter in zip(message.entries, adapters, strict=True)
            if entry.shares
        },
    )


def _host_to_proto(host: HostView) -> pb.TableHost:
    hello = view_wire.spec_to_proto(host.spec)
    hello.beat.CopyFrom(
        pb.Beat(
            state=host.state.value,
            load=view_wire.load_to_proto(host.load),
            copies=view_wire.copies_to_proto(host.copies),
            has_copies=True,
        )
    )
    return pb.TableHost(hello=hello, state=host.state.value)


def _host_from_proto(host: pb.TableHost) -> HostView:
    beat = host.hello.beat
    return HostView(
        spec=view_wire.spec_from_proto(host.hello),
        state=HostState(host.state),
        load=view_wire.load_from_proto(beat.load),
        copies=view_wire.copies_from_proto(beat.copies),
    )


def _hint_to_proto(hint: Hint) -> pb.FetchAdapter:
    return pb.FetchAdapter(
        adapter=view_wire.adapter_to_proto(hint.adapter),
        peers=[pb.PeerAddress(host=host, address=address) for host, address in hint.peers],
        ticket=hint.ticket,
    )


def _hint_from_proto(message: pb.FetchAdapter) -> Hint:
    return Hint(
        adapter=view_wire.adapter_from_proto(message.adapter),
        peers=tuple((HostName(peer.host), peer.address) for peer in message.peers),
        ticket=message.ticket if message.HasField("ticket") else None,
    )
