"""An adapter comes from another host whole, or not at all."""

import asyncio
import contextlib
import itertools
from dataclasses import replace

import grpc
import numpy as np
import pytest

from cluster import control_pb2, control_pb2_grpc
from cluster import peer as peers
from cluster.peer import CHUNK_BYTES, Peer, Prepares, pull
from cluster.tickets import Reply, Request
from cluster.view import Adapter
from lorajax.adapter_pages import CHECKSUM_BYTES, LowRank, pack, to_bytes
from lorajax.errors import CorruptAdapter, Unavailable, UnknownAdapter
from tests.cluster.host_rig import MODEL, made
from tests.cluster.rig import on_loop

SIZE = "lorajax-total-bytes"


@contextlib.asynccontextmanager
async def listening(handlers, port=0):
    """The address of a server."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def scripted(*streams):
    """A Peer that answers its calls by these functions of (request, context), in turn."""
    turns = iter(streams)

    async def answer(request, context):
        async for chunk in next(turns)(request, context):
            yield chunk

    pull_one = grpc.unary_stream_rpc_method_handler(
        answer,
        request_deserializer=control_pb2.PullRequest.FromString,
    )
    return grpc.method_handlers_generic_handler("lorajax.control.v1.Peer", {"Pull": pull_one})


def sends(buffer, start, end, total=None):
    """Bytes of a buffer, and then the end of the stream."""

    async def stream(request, context):
        assert request.offset == start
        await context.send_initial_metadata(((SIZE, str(len(buffer) if total is None else total)),))
        yield buffer[start:end]

    return stream


def pull_call(channel, offset):
    """The bare call."""
    ask = channel.unary_stream("/lorajax.control.v1.Peer/Pull", control_pb2.PullRequest.SerializeToString)
    return ask(control_pb2.PullRequest(version="ab" * 32, offset=offset))


async def prepares_nothing(request):
    raise Unavailable(f"ticket {request.ticket} is over")


async def refuses(request, context):
    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
    yield


async def says_nothing(request, context):
    await asyncio.Event().wait()
    yield


@pytest.fixture
def adapter(tmp_path):
    pages, known = made(tmp_path / "sql", rank=12)
    return to_bytes(pages), known


def same(one, other):
    return one.spec == other.spec and all(np.array_equal(one.a[target], other.a[target]) for target in one.spec.targets)


@on_loop
async def test_adapter_arrives_as_it_was(tmp_path):
    pages, known = made(tmp_path / "sql", rank=12)
    asked = []

    async def export(version):
        asked.append(version)
        return pages

    async with listening(Peer(export, prepares_nothing).handlers()) as address:
        got = await pull(address, known)
    assert asked == [known.version]
    assert same(got, pages)


@on_loop
async def test_adapter_that_nobody_waits_for_arrives_too_and_may_become_urgent():
    pages = wide_adapter()
    known = Adapter(version="ab" * 32, rank=256, num_bytes=pages.spec.num_bytes, path="")
    said = itertools.count()

    async def export(version):
        return pages

    async with listening(Peer(export, prepares_nothing).handlers()) as address:
        got = await pull(address, known, lambda: next(said) > 1)
    assert same(got, pages)


def wide_adapter():
    """One that takes several chunks."""
    model = replace(MODEL, hidden_size=2048)
    update = LowRank(a=np.ones((256, 2048), np.float32), b=np.ones((8, 256), np.float32))
    return pack({(0, "q_proj"): update}, model=model, version="ab" * 32)


@pytest.mark.parametrize("from_end", [None, CHUNK_BYTES + 1, CHECKSUM_BYTES + 1, CHECKSUM_BYTES, 1])
@on_loop
async def test_buffer_is_sent_in_chunks_from_an_offset_on(from_end):
    pages = wide_adapter()
    buffer = to_bytes(pages)
    offset = 0 if from_end is None else len(buffer) - from_end

    async def export(version):
        return pages

    async with (
        listening(Peer(export, prepares_nothing).handlers()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call = pull_call(channel, offset)
        said = dict(await call.initial_metadata())
        chunks = [chunk async for chunk in call]
    assert said[SIZE] == str(len(buffer))
    assert b"".join(chunks) == buffer[offset:]
    assert max(map(len, chunks)) <= CHUNK_BYTES


@on_loop
async def test_offset_beyond_the_end_is_refused():
    pages = wide_adapter()

    async def export(version):
        return pages

    async with (
        listening(Peer(export, prepares_nothing).handlers()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="OUT_OF_RANGE"):
            await pull_call(channel, len(to_bytes(pages))).read()


@on_loop
async def test_stream_that_is_cut_goes_on_where_it_was(adapter):
    buffer, known = adapter
    async with listening(scripted(sends(buffer, 0, 100), sends(buffer, 100, len(buffer)))) as address:
        got = await pull(address, known)
    assert got.spec.version == known.version


@on_loop
async def test_cut_stream_that_gets_no_further_is_given_up(adapter):
    buffer, known = adapter
    async with listening(scripted(sends(buffer, 0, 100), refuses)) as address:
        with pytest.raises(Unavailable, match="UNAVAILABLE: gone"):
            await pull(address, known)


@on_loop
async def test_host_without_the_adapter_says_so(adapter):
    async def export(version):
        raise UnknownAdapter("not in this host's memory")

    async with listening(Peer(export, prepares_nothing).handlers()) as address:
        with pytest.raises(Unavailable, match="NOT_FOUND: not in this host's memory"):
            await pull(address, adapter[1])


@on_loop
async def test_silent_peer_is_given_up(adapter):
    async with listening(scripted(says_nothing)) as address:
        with pytest.raises(Unavailable, match=r"for 0.05 s|within 0.05"):
            await pull(address, adapter[1], stall_s=0.05)


@on_loop
async def test_peer_that_is_gone_is_given_up(adapter):
    async with listening(scripted()) as address:
        pass
    with pytest.raises(Unavailable, match="UNAVAILABLE"):
        await pull(address, adapter[1])


@on_loop
async def test_flipped_bit_is_corrupt(adapter):
    buffer, known = adapter
    broken = bytearray(buffer)
    broken[len(broken) // 2] ^= 1
    async with listening(scripted(sends(bytes(broken), 0, len(broken)))) as address:
        with pytest.raises(CorruptAdapter, match="checksum"):
            await pull(address, known)


@on_loop
async def test_other_version_is_corrupt(adapter, tmp_path):
    buffer, _ = adapter
    _, other = made(tmp_path / "other", "others", rank=12)
    async with listening(scripted(sends(buffer, 0, len(buffer)))) as address:
        with pytest.raises(CorruptAdapter, match="wanted"):
            await pull(address, other)


@on_loop
async def test_peer_that_does_not_say_how_much_comes_is_not_believed(adapter):
    buffer, known = adapter

    async def stream(request, context):
        yield buffer

    async with listening(scripted(stream)) as address:
        with pytest.raises(CorruptAdapter, match="it would send 0 bytes"):
            await pull(address, known)


@pytest.mark.parametrize("total", [0, 1 << 60])
@on_loop
async def test_size_that_cannot_be_right_is_refused_before_memory_is_taken(adapter, total):
    buffer, known = adapter
    async with listening(scripted(sends(buffer, 0, 100, total))) as address:
        with pytest.raises(CorruptAdapter, match="can be right"):
            await pull(address, known)


@on_loop
async def test_more_than_was_spoken_of_is_corrupt(adapter):
    buffer, known = adapter
    async with listening(scripted(sends(buffer, 0, 100, total=50))) as address:
        with pytest.raises(CorruptAdapter, match="more than the 50 bytes"):
            await pull(address, known)


@on_loop
async def test_collective_that_cannot_be_prepared_is_unavailable():
    async def export(version):
        raise UnknownAdapter("none")

    async with (
        listening(Peer(export, prepares_nothing).handlers()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="ticket 1 is over"):
            await control_pb2_grpc.PeerStub(channel).Prepare(control_pb2.PrepareRequest(ticket=1))


REQUEST, REPLY = Request(ticket=1, target="b", incarnation=1, met=0), Reply(num_bytes=7, incarnation=2, is_gentle=True)


@contextlib.asynccontextmanager
async def asking():
    """One who asks senders."""
    prepares = Prepares()
    try:
        yield prepares.ask
    finally:
        await prepares.close()


def sender(prepared, connections=None):
    """A Peer that sends by collectives alone, and notes over which connection it was asked."""

    class Noting(Peer):
        async def Prepare(self, message, context):
            if connections is not None:
                connections.append(context.peer())
            return await super().Prepare(message, context)

    async def export(version):
        raise UnknownAdapter("none")

    return Noting(export, prepared).handlers()


async def prepares_at_once(request):
    assert request == REQUEST
    return REPLY


@on_loop
async def test_sender_is_asked_over_a_connection_that_is_kept():
    connections = []
    async with listening(sender(prepares_at_once, connections)) as address, asking() as ask:
        assert [await ask(address, REQUEST) for _ in range(3)] == [REPLY] * 3
    assert len(connections) == 3
    assert len(set(connections)) == 1


@on_loop
async def test_sender_that_was_restarted_is_asked_anew():
    async with asking() as ask:
        async with listening(sender(prepares_at_once)) as address:
            assert await ask(address, REQUEST) == REPLY
        with pytest.raises(Unavailable, match="UNAVAILABLE"):
            await ask(address, REQUEST)
        async with listening(sender(prepares_at_once), address.rsplit(":")[-1]):
            assert await ask(address, REQUEST) == REPLY


@on_loop
async def test_why_a_sender_will_not_send_is_told():
    async with listening(sender(prepares_nothing)) as address, asking() as ask:
        for _ in range(2):
            with pytest.raises(Unavailable, match="ticket 1 is over"):
                await ask(address, REQUEST)


@on_loop
async def test_sender_may_let_its_turn_be_waited_for_but_not_say_nothing_at_all(monkeypatch):
    monkeypatch.setattr(peers, "STALL_S", 0.2)

    async def slow(request):
        await asyncio.sleep(0.5)
        return REPLY

    async def mute(message, context):
        await asyncio.Event().wait()

    hanging = grpc.method_handlers_generic_handler(
        "lorajax.control.v1.Peer", {"Prepare": grpc.unary_unary_rpc_method_handler(mute)}
    )
    async with listening(sender(slow)) as address, asking() as ask:
        assert await ask(address, REQUEST) == REPLY
    async with listening(hanging) as address, asking() as ask:
        with pytest.raises(Unavailable, match=r"it sent nothing for 0\.2 s"):
            await ask(address, REQUEST)


@on_loop
async def test_few_connections_are_kept(monkeypatch):
    opened, open_channel = [], grpc.aio.insecure_channel

    def counted(address, **options):
        opened.append(address)
        return open_channel(address, **options)

    monkeypatch.setattr(peers, "MAX_KEPT", 1)
    monkeypatch.setattr(grpc.aio, "insecure_channel", counted)
    async with (
        listening(sender(prepares_at_once)) as one,
        listening(sender(prepares_at_once)) as other,
        asking() as ask,
    ):
        for address in (one, one, other, one):
            assert await ask(address, REQUEST) == REPLY
    assert opened == [one, other, one]
