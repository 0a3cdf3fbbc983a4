"""Collective transfers of one host, one after the other. Owns: their order, the hand-shake before each, and deadlines.

A collective blocks both its hosts until both have launched it, and two hosts that launch two in different order wait
for ever. So the coordinator numbers every transfer, each host takes its numbers as they come, and the receiver asks the
sender by gRPC whether its turn has come before either launches. Does not: touch JAX (collective.py does).
"""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from cluster.view import HostName
from lorajax.errors import LorajaxError, Unavailable

HANDSHAKE_S = 10.0
"""How long one side waits for the other before it gives the ticket up."""
TRANSFER_S = 60.0
"""How long a collective may take. One that hangs cannot be cancelled: no other is begun while it does."""

COLLECTIVE_THREAD = "collective"
_MAX_REMEMBERED = 256
"""Tickets that are over: a receiver that asks late is told at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a receiver asks the sender of a ticket: whether its turn has come, and both still are who they were.

    A pair that has met can never meet again once one of them has been restarted: the other keeps the old connection.
    """

    ticket: int
    target: HostName
    incarnation: int
    """Of the receiver."""
    met: int
    """The sender's, when the two had their last collective; 0 where they had none."""
    is_refused: bool = False
    """The receiver cannot take part: the sender need not wait."""
    is_busy: bool = False
    """The receiver's device is at work on requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The sender's answer: it launches now."""

    num_bytes: int
    incarnation: int
    is_gentle: bool
    """One of the two is at work on requests: both go little by little."""


type Prepare = Callable[[Request], Awaitable[Reply]]
"""Puts a request to the sender. Raises Unavailable."""


class Link(Protocol):
    """The collective between this host and one other, in one direction; both calls block."""

    def send(self, parts: Sequence[memoryview], *, is_gentle: bool) -> None:
        """Send a buffer that lies in parts; returns once the other side has it."""

    def receive(self, num_bytes: int, *, is_gentle: bool) -> memoryview:
        """What the other side sends; `is_gentle` is as there."""


class Links(Protocol):
    """Where links come from; both may raise Unavailable."""

    def to(self, target: HostName) -> Link:
        """The link on which this host sends."""

    def of(self, source: HostName) -> Link:
        """The link on which this host receives."""


class NoLinks:
    """Of a host that shares no world with others."""

    def to(self, target: HostName) -> Link:
        """Refuse."""
        raise Unavailable(f"this host has no collective with host {target}")

    def of(self, source: HostName) -> Link:
        """Refuse."""
        raise Unavailable(f"this host has no collective with host {source}")


@dataclass(eq=False, slots=True)
class _Offer:
    """What a sender tells the receiver, once its turn has come."""

    num_bytes: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_gentle: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Set once the receiver has come."""


class Tickets:
    """Owner: the event loop.

    Invariant: at most one collective runs, tickets run in the order of the calls, and each ends within its deadlines.
    """

    def __init__(
        self,
        links: Links,
        host: HostName,
        incarnation: int,
        is_busy: Callable[[], bool] = lambda: False,
        handshake_s: float = HANDSHAKE_S,
        transfer_s: float = TRANSFER_S,
    ) -> None:
        """Speak for a host in one of its lives, which says when it is at work on requests; nothing is sent yet."""
        self._links = links
        self._host, self._incarnation = host, incarnation
        self._is_busy = is_busy
        self._handshake_s, self._transfer_s = handshake_s, transfer_s
        self._turn = asyncio.Lock()  # first come, first served
        self._offers: defaultdict[int, _Offer] = defaultdict(_Offer)
        self._ended: deque[int] = deque(maxlen=_MAX_REMEMBERED)
        self._met: dict[HostName, int] = {}
        self._broken: set[HostName] = set()
        self._thread = ThreadPoolExecutor(1, COLLECTIVE_THREAD)
        self._is_stuck = False

    async def send(self, ticket: int, target: HostName, export: Callable[[], Awaitable[Sequence[memoryview]]]) -> int:
        """Send what `export` gives; returns how many bytes that were. Raises Unavailable or what `export` raises."""
        with self._offered(ticket) as offer:
            async with self._turn:
                link = self._link(target, self._links.to)
                async with _deadline(self._handshake_s, f"the pages for ticket {ticket} could not be read"):
                    parts = await export()
                offer.num_bytes.set_result(num_bytes := sum(map(len, parts)))
                async with _deadline(self._handshake_s, f"host {target} did not come for ticket {ticket}"):
                    is_gentle = await asyncio.shield(offer.is_gentle)
                await self._run(target, lambda: link.send(parts, is_gentle=is_gentle))
                return num_bytes

    async def prepared(self, request: Request) -> Reply:
        """Answer a receiver, once this host's turn for the ticket has come. Raises Unavailable."""
        if request.ticket in self._ended:
            raise Unavailable(f"ticket {request.ticket} is over")
        offer = self._offers[request.ticket]
        words = "was refused"
        try:
            if request.is_refused:
                raise Unavailable(f"ticket {request.ticket} {words}")
            words = "was given up"
            turn_s = self._handshake_s + self._transfer_s  # of the ticket before it
            async with _deadline(turn_s, f"ticket {request.ticket} is not ours, or its turn has not come"):
                num_bytes = await asyncio.shield(offer.num_bytes)
            if not self._is_same(request):
                words = f"is for another life of host {request.target}"
                raise Unavailable(f"ticket {request.ticket}: one of us was restarted since we met")
        except BaseException:
            _refuse(offer.is_gentle, f"ticket {request.ticket} {words}")
            raise
        finally:
            if not offer.num_bytes.done():
                self._offers.pop(request.ticket, None)
        if not offer.is_gentle.done():
            offer.is_gentle.set_result(request.is_busy or self._is_busy())
        is_gentle = offer.is_gentle.result()
        self._met[request.target] = request.incarnation
        return Reply(num_bytes=num_bytes, incarnation=self._incarnation, is_gentle=is_gentle)

    def _is_same(self, request: Request) -> bool:
        known = self._met.get(request.target, request.incarnation)
        return known == request.incarnation and request.met in (0, self._incarnation)

    async def receive(self, ticket: int, source: HostName, prepare: Prepare) -> memoryview:
        """The other half: what `source` sends. Raises Unavailable, or what `prepare` raises."""
        async with self._turn:
            met = self._met.get(source, 0)
            request = Request(
                ticket=ticket, target=self._host, incarnation=self._incarnation, met=met, is_busy=self._is_busy()
            )
            try:
                link = self._link(source, self._links.of)
            except Unavailable:
                with contextlib.suppress(Unavailable):
                    await prepare(replace(request, is_refused=True))
                raise
            reply = await prepare(request)
            self._met[source] = reply.incarnation
            return await self._run(source, lambda: link.receive(reply.num_bytes, is_gentle=reply.is_gentle))

    def _link(self, host: HostName, make: Callable[[HostName], Link]) -> Link:
        if self._is_stuck:
            raise Unavailable("a collective hangs; adapters come as streams until it ends")
        if host in self._broken:
            raise Unavailable(f"the collective with host {host} is broken; adapters come as streams")
        return make(host)

    async def _run[T](self, host: HostName, call: Callable[[], T]) -> T:
        """Launch on the collective thread. A pair that has failed once is never used again: JAX cannot form it anew."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, call)
        running.add_done_callback(lambda _: setattr(self, "_is_stuck", False))
        try:
            async with _deadline(self._transfer_s, f"the collective with host {host} hangs"):
                return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._is_stuck = not running.done()
            running.add_done_callback(lambda done: self._judge(host, done))
            raise
        except Exception as error:
            self._is_stuck = not running.done()
            self._broken.add(host)
            if isinstance(error, LorajaxError):
                raise
            raise Unavailable(f"the collective with host {host} failed: {type(error).__name__}") from error

    def _judge[T](self, host: HostName, done: asyncio.Future[T]) -> None:
        """After everybody has stopped waiting: a pair that has worked is as good as before."""
        if done.cancelled() or done.exception() is not None:
            self._broken.add(host)

    def close(self) -> None:
        """Begin no collective any more; one that hangs is left behind."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def _offered(self, ticket: int) -> Iterator[_Offer]:
        offer = self._offers[ticket]
        try:
            yield offer
        except BaseException as error:
            words = str(error) if isinstance(error, LorajaxError) else type(error).__name__
            _refuse(offer.num_bytes, f"ticket {ticket}: {words}")
            _refuse(offer.is_gentle, f"ticket {ticket}: {words}")
            raise
        finally:
            self._offers.pop(ticket, None)
            self._ended.append(ticket)


@contextlib.asynccontextmanager
async def _deadline(seconds: float, words: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unavailable(f"{words} within {seconds:g} s") from None


def _refuse[T](future: asyncio.Future[T], words: str) -> None:
    if not future.done():
        future.set_exception(Unavailable(words))
        future.exception()  # seen, also where nobody asks
