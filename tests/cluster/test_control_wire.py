"""What one process of a cluster means is what another one reads."""

import pytest

from cluster import control_pb2 as pb
from cluster import control_wire as wire
from cluster.events import (
    CommandFailed,
    Done,
    DrainHost,
    DropAdapter,
    FetchAdapter,
    FolderRead,
    HostBeat,
    HostJoined,
    PinAdapter,
    ReadFolder,
    SendAdapter,
)
from cluster.view import (
    Adapter,
    HostLoad,
    HostSpec,
    HostState,
    HostView,
    Registration,
    Share,
    Table,
)
from lorajax import errors
from lorajax.spec import AdapterSpec, Level

VERSION = "ab" * 32
ADAPTER = Adapter(version=VERSION, rank=12, num_bytes=5 << 32, path="sql", min_copies=2)
COPIES = {VERSION: Level.DEVICE, "cd" * 32: Level.STORE}
LOAD = HostLoad(
    num_running=1,
    num_waiting=2,
    waiting_tokens=3,
    kv_pages_free=4,
    kv_pages_total=5,
    adapter_pages_free=6,
    adapter_pages_total=7,
    tokens_per_s=8.5,
)
SPEC = HostSpec(
    name="h0",
    address="10.0.0.1:50051",
    incarnation=1_764_000_000_000_000_000,
    host_bytes=1 << 40,
    num_adapter_pages=100,
    max_sequences=16,
    can_collect=True,
    speed=0.5,
)
IDENTITY = wire.Identity(fingerprint="f", model="tiny", software_version="0.1")
COMMANDS = (
    ReadFolder(number=1, host="h0", path="a/b"),
    FetchAdapter(number=2, host="h0", adapter=ADAPTER, peers=("h2", "h1")),
    FetchAdapter(number=3, host="h0", adapter=ADAPTER, peers=("h1",), ticket=0),
    SendAdapter(number=4, host="h0", version=VERSION, target="h1", ticket=9),
    DropAdapter(number=5, host="h0", version=VERSION),
    PinAdapter(number=6, host="h0", version=VERSION, pin=False),
    DrainHost(number=7, host="h0"),
)
OUTCOMES = (
    Done(number=1),
    FolderRead(number=2, spec=AdapterSpec(version=VERSION, rank=3, targets=("q_proj", "up_proj"), num_bytes=7)),
)
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LorajaxError)]


def beat(copies):
    return HostBeat(
        host="h0",
        incarnation=3,
        state=HostState.DRAINING,
        load=LOAD,
        tokens={VERSION: 10**10},
        copies=copies,
        now_s=1.5,
    )


@pytest.mark.parametrize("copies", [None, {}, COPIES])
def test_beat_arrives_with_its_copies_or_without(copies):
    message = pb.Beat.FromString(wire.beat_to_proto(beat(copies)).SerializeToString())
    assert wire.beat_from_proto("h0", 3, message, 1.5) == beat(copies)


def test_hello_arrives_with_state_and_copies():
    message = wire.hello_to_proto(SPEC, IDENTITY, wire.beat_to_proto(beat(COPIES), 2.0))
    assert wire.hello_from_proto(message, 4.0) == HostJoined(
        spec=SPEC, state=HostState.DRAINING, copies=COPIES, now_s=4.0
    )
    assert (message.fingerprint, message.model, message.software_version, message.beat.uptime_s) == (
        "f",
        "tiny",
        "0.1",
        2.0,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_command_arrives_with_the_addresses_of_its_peers(command):
    addresses = {"h1": "10.0.0.2:1", "h2": "10.0.0.3:1"}
    message = pb.HostCommand.FromString(wire.command_to_proto(command, addresses).SerializeToString())
    got, got_addresses = wire.command_from_proto(message, "h0")
    assert got == command
    assert got_addresses == {peer: addresses[peer] for peer in getattr(command, "peers", ())}


def test_peer_that_has_left_is_left_out():
    message = wire.command_to_proto(COMMANDS[1], {"h1": "10.0.0.2:1"})
    command, _ = wire.command_from_proto(message, "h0")
    assert command.peers == ("h1",)


def test_command_of_no_known_kind_is_a_bug():
    with pytest.raises(ValueError, match="does not know"):
        wire.command_from_proto(pb.HostCommand(number=3), "h0")


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_outcome_arrives(outcome):
    assert wire.outcome_from_proto(wire.outcome_to_proto(outcome)) == outcome


def test_outcome_of_a_fetch_says_how_it_came():
    arrival = wire.Arrival(way="stream", num_bytes=5, seconds=0.5)
    message = wire.outcome_to_proto(Done(number=1), arrival)
    assert (message.way, message.bytes_moved, message.seconds) == ("stream", 5, 0.5)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_error_keeps_its_class_and_words(kind):
    got = wire.outcome_from_proto(wire.outcome_to_proto(CommandFailed(number=1, error=kind("why"))))
    assert (type(got), got.number, type(got.error), str(got.error)) == (CommandFailed, 1, kind, "why")


def test_error_of_an_unknown_class_is_an_engine_failure():
    got = wire.outcome_from_proto(pb.Outcome(number=1, error="Exception", message="why"))
    assert (type(got.error), str(got.error)) == (errors.EngineFailure, "why")


def test_table_arrives_but_for_the_time_of_the_last_beat():
    host = HostView(spec=SPEC, state=HostState.LOST, load=LOAD, copies=COPIES)
    names = ("sql", "also-sql", "cold")
    other = Adapter(version="cd" * 32, rank=1, num_bytes=1, path="cold")
    adapters = (ADAPTER, ADAPTER, other)
    table = Table(
        number=5,
        round=2,
        hosts={"h0": host},
        registrations={
            name: Registration(name=name, adapter=adapter, is_pinned=name == "sql")
            for name, adapter in zip(names, adapters, strict=True)
        },
        shares={VERSION: (Share("h0", 0.75), Share("h1", 0.25))},
    )
    assert wire.table_from_proto(pb.Table.FromString(wire.table_to_proto(table).SerializeToString())) == table


def test_hint_arrives():
    peers = (("h2", "10.0.0.3:1"), ("h1", "10.0.0.2:1"))
    assert wire.hint_from_bytes(wire.fetch_hint(ADAPTER, peers)) == wire.Hint(adapter=ADAPTER, peers=peers)


def test_bytes_that_are_no_hint_are_the_callers_mistake():
    with pytest.raises(errors.BadRequest, match="lorajax-fetch-bin"):
        wire.hint_from_bytes(b"\xff")
