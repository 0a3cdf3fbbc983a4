"""A host says what it is and has, does what it is told, and goes on where nobody tells it anything."""

import contextlib

import pytest

from cluster import control_pb2 as pb
from cluster import control_wire, serving_pb2
from cluster.control_wire import outcome_from_proto
from cluster.events import Done, FetchAdapter, FolderRead
from cluster.view import HostState
from lorajax.errors import BadRequest, CorruptAdapter, EngineFailure, Unavailable, UnknownAdapter
from lorajax.spec import Level
from tests.cluster.host_rig import coordinating, host, made, member
from tests.cluster.rig import answer, on_loop, refusal, request
from tests.fakes import write_adapter

NO_PORT = 1
"""Where nobody listens."""


def fetch(known, *peers):
    """The kind of an order to fetch; peers are rigs by name."""
    command = FetchAdapter(number=0, host="h0", adapter=known, peers=tuple(name for name, _ in peers))
    return control_wire.command_to_proto(command, {name: rig.target for name, rig in peers}).fetch


@on_loop
async def test_hello_says_who_where_and_what(tmp_path):
    async with coordinating() as (coordinator, port), host(tmp_path, port, is_open=False) as rig:
        hello = await (await coordinator.line()).hello()
    joined = control_wire.hello_from_proto(hello, 0.0)
    assert (joined.spec.name, joined.spec.address, joined.spec.incarnation) == ("h0", rig.target, 7)
    assert (joined.spec.host_bytes, joined.spec.num_adapter_pages, joined.spec.max_sequences) == (1000, 1000, 4)
    assert joined.spec.speed == 0.5
    assert (hello.fingerprint, hello.model, hello.software_version) == ("tiny/float32", "tiny", "0.0")
    assert (joined.state, joined.copies) == (HostState.STARTING, {})


@on_loop
async def test_host_beats_its_state_as_it_changes(tmp_path):
    async with coordinating() as (coordinator, port), host(tmp_path, port, is_open=False) as rig:
        line = await coordinator.line()
        assert (await line.hello()).beat.state == "starting"
        await rig.worker.open()
        await line.beat(lambda beat: beat.state == "serving")
        rig.worker.drain()
        await line.beat(lambda beat: beat.state == "draining")


@on_loop
async def test_folder_is_read_and_told_before_the_outcome(tmp_path):
    async with member(tmp_path) as (_, line):
        pages, known = made(tmp_path / "sql")
        line.order(5, read=pb.ReadFolder(path="sql"))
        *said, last = await line.until_outcome()
    assert outcome_from_proto(last.outcome) == FolderRead(number=5, spec=pages.spec)
    told = [control_wire.beat_from_proto("h0", 7, message.beat, 0.0).copies for message in said]
    assert {known.version: Level.HOST} in told


@on_loop
async def test_copies_are_told_only_when_they_change(tmp_path):
    async with member(tmp_path) as (_, line):
        made(tmp_path / "sql")
        line.order(5, read=pb.ReadFolder(path="sql"))
        await line.outcome()
        assert not (await line.beat()).has_copies


@on_loop
async def test_fetch_says_how_the_adapter_came(tmp_path):
    pages, known = made(tmp_path / "source" / "sql")
    async with host(tmp_path / "source", NO_PORT) as source, member(tmp_path / "target") as (target, line):
        await source.adapters.Load(serving_pb2.LoadAdapterRequest(name=known.version, path=known.path))
        line.order(1, fetch=fetch(known, ("h1", source)))
        *_, last = await line.until_outcome()
        assert list(target.engine.adapters) == [known.version]
    assert (last.outcome.error, last.outcome.way, last.outcome.bytes_moved) == ("", "stream", pages.spec.num_bytes)


@on_loop
async def test_pin_and_drop_are_carried_out(tmp_path):
    async with member(tmp_path) as (rig, line):
        _, known = made(tmp_path / "sql")
        line.order(1, read=pb.ReadFolder(path="sql"))
        await line.outcome()
        line.order(2, pin=pb.PinAdapter(version=known.version, pin=True))
        assert await line.outcome() == Done(number=2)
        assert rig.engine.adapters[known.version][1]
        line.order(3, drop=pb.DropAdapter(version=known.version))
        *said, last = await line.until_outcome()
        assert outcome_from_proto(last.outcome) == Done(number=3)
        assert rig.engine.adapters == {}
    assert [list(message.beat.copies) for message in said if message.beat.has_copies][-1] == []


@pytest.mark.parametrize(
    ("order", "kind"),
    [
        (lambda known: {"read": pb.ReadFolder(path="/etc")}, BadRequest),
        (lambda known: {"fetch": fetch(known)}, CorruptAdapter),
        (lambda known: {"fetch": pb.FetchAdapter(adapter=pb.Adapter(version="ab" * 32, path="none"))}, Unavailable),
        (lambda known: {"pin": pb.PinAdapter(version="ab" * 32, pin=True)}, UnknownAdapter),
        (lambda known: {"send": pb.SendAdapter(version="ab" * 32, target="h1", ticket=1)}, Unavailable),
        (lambda known: {}, EngineFailure),
    ],
)
@on_loop
async def test_order_that_fails_is_answered_with_its_error(tmp_path, order, kind):
    _, known = made(tmp_path / "sql")
    write_adapter(tmp_path / "sql", "changed since")
    async with member(tmp_path) as (_, line):
        line.order(9, **order(known))
        outcome = await line.outcome()
    assert (outcome.number, type(outcome.error)) == (9, kind)


@on_loop
async def test_every_order_is_answered_once(tmp_path):
    _, known = made(tmp_path / "sql")
    orders = [
        {"read": pb.ReadFolder(path="sql")},
        {"fetch": fetch(known)},
        {"drop": pb.DropAdapter(version=known.version)},
        {"read": pb.ReadFolder(path="none")},
    ] * 10
    async with member(tmp_path) as (_, line):
        for number, order in enumerate(orders):
            line.order(number, **order)
        numbers = [(await line.outcome()).number for _ in orders]
        line.order(100, drop=pb.DropAdapter(version=known.version))
        numbers.append((await line.outcome()).number)
    assert (sorted(numbers), numbers[-1]) == ([*range(len(orders)), 100], 100)


@on_loop
async def test_tokens_of_prompts_and_answers_are_told_once(tmp_path):
    async with member(tmp_path) as (rig, line):
        _, known = made(tmp_path / "sql")
        line.order(1, read=pb.ReadFolder(path="sql"))
        await line.outcome()
        await answer(rig.inference.Generate(request("hello", 4, adapters=[known.version])))
        await answer(rig.inference.Generate(request("base", 4)))
        beat = await line.beat(lambda beat: beat.tokens)
        told = {one.version: one.count for one in beat.tokens}
        assert not (await line.beat()).tokens
    assert told == {known.version: len("hello") + 4}


@on_loop
async def test_load_counts_requests_and_the_prompt_tokens_that_wait(tmp_path):
    async with member(tmp_path, is_paced=True) as (rig, line):
        streams = []
        for request_id in ("r1", "r2"):
            streams.append(rig.inference.Generate(request("hello", request_id=request_id)))
            await rig.called("submit", request_id)
        beat = await line.beat(lambda beat: beat.load.waiting_tokens)
        assert (beat.load.waiting_tokens, beat.load.num_running) == (10, 2)
        assert (beat.load.kv_pages_free, beat.load.kv_pages_total) == (90, 100)
        rig.engine.step()
        await line.beat(lambda beat: not beat.load.waiting_tokens and beat.load.tokens_per_s)
        for stream in streams:
            stream.cancel()


@on_loop
async def test_host_serves_without_a_coordinator(tmp_path):
    async with host(tmp_path, NO_PORT) as rig:
        text, _, _ = await answer(rig.inference.Generate(request()))
    assert len(text) == 4


@on_loop
async def test_host_joins_again_with_what_it_holds_when_the_coordinator_comes_back(tmp_path):
    _, known = made(tmp_path / "sql")
    async with contextlib.AsyncExitStack() as later:
        async with coordinating() as (coordinator, port):
            await later.enter_async_context(host(tmp_path, port))
            line = await coordinator.line()
            first = await line.hello()
            line.order(1, read=pb.ReadFolder(path="sql"))
            await line.outcome()
        async with coordinating(port) as (coordinator, _):
            again = await (await coordinator.line()).hello()
    assert (again.incarnation, again.address) == (first.incarnation, first.address)
    assert [(copy.version, copy.level) for copy in again.beat.copies] == [(known.version, "host")]


@on_loop
async def test_outcome_of_an_order_is_not_told_on_another_line(tmp_path):
    _, known = made(tmp_path / "sql")
    async with coordinating() as (coordinator, port), host(tmp_path, port) as rig:
        line = await coordinator.line()
        rig.engine.is_between_steps.clear()
        line.order(1, read=pb.ReadFolder(path="sql"))
        await rig.called("add", known.version)
        line.cut()
        line = await coordinator.line()
        assert not (await line.hello()).beat.copies
        rig.engine.is_between_steps.set()
        await line.beat(lambda beat: [copy.version for copy in beat.copies] == [known.version])
        line.order(2, drop=pb.DropAdapter(version=known.version))
        assert (await line.outcome()).number == 2


@on_loop
async def test_order_to_drain_lets_the_host_end(tmp_path):
    async with member(tmp_path) as (rig, line):
        line.order(1, drain=pb.DrainHost())
        *_, last = await line.until_outcome()
        assert outcome_from_proto(last.outcome) == Done(number=1)
        await rig.worker.run()
        got = await refusal(rig.inference.Generate(request()))
    assert got.code == "UNAVAILABLE"


@on_loop
async def test_host_that_stops_leaves(tmp_path):
    async with coordinating() as (coordinator, port):
        async with host(tmp_path, port):
            line = await coordinator.line()
        await line.has_ended.wait()
