"""Tickets run in order, shake hands first, and a side that fails never leaves the other waiting."""

import asyncio
import queue
import threading

import pytest

from cluster.tickets import Request, Tickets
from lorajax.errors import Unavailable
from tests.cluster.rig import on_loop


class MemoryLink:
    """Two ends in one process: a rendezvous like a collective's, both sides block until the other is there."""

    def __init__(self) -> None:
        self._buffers: queue.Queue[tuple[bytes, bool]] = queue.Queue(1)
        self._taken: queue.Queue[None] = queue.Queue(1)
        self.was_gentle = False

    def send(self, parts, *, is_gentle: bool) -> None:
        self._buffers.put((b"".join(parts), is_gentle))
        self._taken.get(timeout=5)

    def receive(self, num_bytes: int, *, is_gentle: bool) -> bytearray:
        buffer, self.was_gentle = self._buffers.get(timeout=5)
        self._taken.put(None)
        assert is_gentle == self.was_gentle, "the two ends cut the buffer in different chunks"
        return bytearray(buffer)


class BrokenLink:
    """A pair whose communicator is gone."""

    def send(self, parts, *, is_gentle: bool) -> None:
        raise RuntimeError("connection closed by peer")

    def receive(self, num_bytes: int, *, is_gentle: bool) -> bytearray:
        raise RuntimeError("connection closed by peer")


class Links:
    """One end of a small cluster's links."""

    def __init__(self, name: str, links: dict[tuple[str, str], object]) -> None:
        self._name, self._links = name, links

    def to(self, target):
        return self._links[self._name, target]

    def of(self, source):
        return self._links[source, self._name]


def _hosts(*names: str, **deadlines: float) -> dict[str, Tickets]:
    links = {(a, b): MemoryLink() for a in names for b in names if a != b}
    return {name: Tickets(Links(name, links), name, 1, **deadlines) for name in names}


def _move(hosts, ticket: int, source: str, target: str, content: bytes = b"pages"):
    """Both halves of one ticket."""

    async def export():
        return [memoryview(content)]

    send = asyncio.ensure_future(hosts[source].send(ticket, target, export))
    receive = asyncio.ensure_future(hosts[target].receive(ticket, source, hosts[source].prepared))
    return send, receive


@on_loop
async def test_what_is_sent_arrives():
    send, receive = _move(_hosts("a", "b"), 1, "a", "b", b"twelve pages")
    assert (await send, await receive) == (12, b"twelve pages")


@pytest.mark.parametrize(("busy", "is_gentle"), [((), False), (("a",), True), (("b",), True), (("a", "b"), True)])
@on_loop
async def test_both_ends_go_gently_where_one_is_at_work(busy, is_gentle):
    link = MemoryLink()
    hosts = {name: Tickets(Links(name, {("a", "b"): link}), name, 1, lambda name=name: name in busy) for name in "ab"}
    await asyncio.gather(*_move(hosts, 1, "a", "b"))
    assert link.was_gentle == is_gentle


@on_loop
async def test_opposite_moves_do_not_wait_for_each_other():
    hosts = _hosts("a", "b")
    halves = [*_move(hosts, 1, "a", "b", b"one"), *_move(hosts, 2, "b", "a", b"two")]
    assert await asyncio.wait_for(asyncio.gather(*halves), 5) == [3, b"one", 3, b"two"]


@on_loop
async def test_a_ring_of_moves_ends():
    hosts = _hosts("a", "b", "c")
    ring = [("a", "b"), ("c", "a"), ("b", "c"), ("b", "a"), ("a", "c")]
    halves = [half for number, (source, target) in enumerate(ring, 1) for half in _move(hosts, number, source, target)]
    await asyncio.wait_for(asyncio.gather(*halves), 5)


@on_loop
async def test_an_export_that_fails_tells_the_receiver():
    hosts = _hosts("a", "b")

    async def export() -> bytes:
        raise Unavailable("the copy is gone")

    send = asyncio.ensure_future(hosts["a"].send(1, "b", export))
    receive = asyncio.ensure_future(hosts["b"].receive(1, "a", hosts["a"].prepared))
    results = await asyncio.gather(send, receive, return_exceptions=True)
    assert [str(result) for result in results] == ["the copy is gone", "ticket 1 is over"]


@on_loop
async def test_a_pair_that_broke_once_is_refused_at_once_on_both_sides():
    links = {("a", "b"): BrokenLink(), ("b", "a"): BrokenLink()}
    hosts = {name: Tickets(Links(name, links), name, 1) for name in "ab"}
    results = await asyncio.gather(*_move(hosts, 1, "a", "b"), return_exceptions=True)
    assert all("failed: RuntimeError" in str(result) for result in results)
    results = await asyncio.wait_for(asyncio.gather(*_move(hosts, 2, "b", "a"), return_exceptions=True), 1)
    assert all(isinstance(result, Unavailable) for result in results)


@on_loop
async def test_a_sender_whose_receiver_never_comes_goes_on_with_the_next():
    hosts = _hosts("a", "b", handshake_s=0.05)
    send, receive = _move(hosts, 1, "a", "b")
    receive.cancel()
    after = _move(hosts, 2, "a", "b", b"next")
    with pytest.raises(Unavailable, match="did not come for ticket 1"):
        await send
    assert await asyncio.wait_for(asyncio.gather(*after), 5) == [4, b"next"]


@on_loop
async def test_a_ticket_the_sender_never_hears_of_is_given_up():
    sender = Tickets(Links("a", {}), "a", 1, handshake_s=0.05, transfer_s=0)
    with pytest.raises(Unavailable, match="ticket 7 is not ours"):
        await sender.prepared(Request(ticket=7, target="b", incarnation=1, met=0))


class HangingLink(MemoryLink):
    """A sender that is stopped between its hand-shake and its launch."""

    def __init__(self) -> None:
        super().__init__()
        self.is_let_go = threading.Event()

    def send(self, parts, *, is_gentle: bool) -> None:
        self.is_let_go.wait(5)
        super().send(parts, is_gentle=is_gentle)


@on_loop
async def test_while_a_collective_hangs_no_other_is_begun():
    link = HangingLink()
    links = {("a", "b"): link, ("b", "a"): MemoryLink()}
    hosts = {name: Tickets(Links(name, links), name, 1, transfer_s=0.05) for name in "ab"}
    results = await asyncio.gather(*_move(hosts, 1, "a", "b"), return_exceptions=True)
    assert all("hangs within" in str(result) for result in results)
    results = await asyncio.gather(*_move(hosts, 2, "b", "a"), return_exceptions=True)
    assert "a collective hangs" in str(results[0])
    link.is_let_go.set()


@pytest.mark.parametrize("restarted", ["a", "b"])
@on_loop
async def test_a_pair_that_has_met_never_meets_again_after_one_was_restarted(restarted):
    links = {("a", "b"): MemoryLink(), ("b", "a"): MemoryLink()}
    hosts = {name: Tickets(Links(name, links), name, 1) for name in "ab"}
    await asyncio.gather(*_move(hosts, 1, "a", "b"))
    hosts[restarted] = Tickets(Links(restarted, links), restarted, 2)
    results = await asyncio.wait_for(asyncio.gather(*_move(hosts, 2, "a", "b"), return_exceptions=True), 5)
    assert all(isinstance(result, Unavailable) for result in results)


@on_loop
async def test_a_pair_of_which_both_were_restarted_meets_anew():
    hosts = _hosts("a", "b")
    await asyncio.gather(*_move(hosts, 1, "a", "b"))
    links = {("a", "b"): MemoryLink(), ("b", "a"): MemoryLink()}
    hosts = {name: Tickets(Links(name, links), name, 2) for name in "ab"}
    assert await asyncio.gather(*_move(hosts, 2, "a", "b", b"new")) == [3, b"new"]
