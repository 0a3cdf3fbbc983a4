"""How many requests the front door has sent on, and who is let in next. Owns: the count and the waiting room.

Does not: choose hosts. What waits here can still go anywhere and is served fairly; what waits at a host cannot.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from weakref import WeakValueDictionary

from cluster.fair_queue import FairQueue
from cluster.view import HostName
from lorajax.spec import Version

_FETCH_PARTS = 4
"""An adapter's requests may wait for it in one of so many parts of the places that there are before the hosts; where
more adapters are on their way, in one of as many."""


class Gate:
    """Lets requests in while fewer than `limit()` are inside; the tenants that wait take turns.

    Invariant: a request is inside, waiting, or gone. Owner: the event loop.
    """

    def __init__(self, limit: Callable[[], int], max_waiting: int) -> None:
        """Start empty; `limit` is asked again at every change."""
        self._limit = limit
        self._num_inside = 0
        self._queue = FairQueue(max_waiting)
        self._turns: dict[str, asyncio.Future[None]] = {}

    @property
    def num_waiting(self) -> int:
        """Requests in the waiting room."""
        return len(self._turns)

    @contextlib.asynccontextmanager
    async def entered(self, tenant: str, key: str, cost: float) -> AsyncIterator["Place"]:
        """Be inside while the block runs, after waiting for it. Raises Overloaded where too many wait already."""
        place = Place(tenant, key, cost)
        try:
            await place.enter(self)
            yield place
        finally:
            place.leave()

    def admit(self) -> None:
        """Let in whom there is room for; to be called when `limit` has grown."""
        while self._turns and self._num_inside < self._limit():
            key = self._queue.take()
            assert key is not None, "every turn has its place in the queue"
            self._num_inside += 1
            if not (turn := self._turns.pop(key)).done():  # else its caller has just left, and gives the room back
                turn.set_result(None)

    def open(self) -> None:
        """Let in all who wait, whether or not there is room."""
        while (key := self._queue.take()) is not None:
            self._num_inside += 1
            if not (turn := self._turns.pop(key)).done():
                turn.set_result(None)

    async def enter(self, tenant: str, key: str, cost: float) -> None:
        """Come in, after waiting for it. Raises Overloaded where too many wait already."""
        if not self._turns and self._num_inside < self._limit():
            self._num_inside += 1
            return
        self._queue.put(tenant, key, cost)
        turn = self._turns[key] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except asyncio.CancelledError:
            if self._turns.pop(key, None) is None:
                self.leave()  # was let in at the very moment its caller left
            else:
                self._queue.remove(key)
            raise

    def enter_now(self) -> None:
        """Come in, whether or not there is room."""
        self._num_inside += 1

    def leave(self) -> None:
        """Give the room to the next."""
        self._num_inside -= 1
        self.admit()


class Place:
    """Where one request is inside.

    Invariant: it is inside one gate at most; in none while it waits before the next.
    """

    def __init__(self, tenant: str, key: str, cost: float) -> None:
        """Begin outside."""
        self._tenant, self._key, self._cost = tenant, key, cost
        self.gate: Gate | None = None

    async def enter(self, gate: Gate) -> bool:
        """Be inside this gate and in no other, after waiting for it; whether it was there already. Raises as gates."""
        if gate is self.gate:
            return True
        self.leave()
        await gate.enter(self._tenant, self._key, self._cost)
        self.gate, self._cost = gate, 0.0  # its tenant pays once, however many gates there are on its way
        return False

    def enter_now(self, gate: Gate) -> None:
        """Be inside this gate and in no other, whether or not there is room."""
        if gate is not self.gate:
            self.leave()
            gate.enter_now()
            self.gate = gate

    def leave(self) -> None:
        """Be inside no more."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.leave()


class Gates:
    """The gate before the hosts, and one beside it for each adapter that must come to a host first.

    Who waits for an adapter keeps no sequence of a host busy: however long that takes, and however many want the same
    one, the places before the hosts are for others.
    """

    def __init__(self, limit: Callable[[], int], max_waiting: int) -> None:
        """`limit` is that of the hosts."""
        self._limit = limit
        self._max_waiting = max_waiting
        self.hosts = Gate(limit, max_waiting)
        self._adapters: WeakValueDictionary[Version, Gate] = WeakValueDictionary()

    def of(self, version: Version | None) -> Gate:
        """Where requests belong whose host lacks this adapter; the hosts' own for None."""
        if version is None:
            return self.hosts
        return self._adapters.setdefault(version, Gate(self._fetch_limit, self._max_waiting))

    @property
    def num_waiting(self) -> int:
        """Requests before any gate."""
        return sum(gate.num_waiting for gate in self._all())

    def admit(self) -> None:
        """Let in whom there is room for; to be called when `limit` has grown."""
        for gate in self._all():
            gate.admit()

    @contextlib.contextmanager
    def noticing(self, holds: Callable[[HostName, Version], bool], hosts: Iterable[HostName]) -> Iterator[None]:
        """Let those go on whose adapter one of the hosts has got, by what is learnt in the block."""
        lacking = [(host, one) for one in self._adapters for host in hosts if not holds(host, one)]
        yield
        for host, version in lacking:
            if holds(host, version) and version in self._adapters:
                self._adapters[version].open()

    def _fetch_limit(self) -> int:
        return max(1, self._limit() // max(_FETCH_PARTS, len(self._adapters)))

    def _all(self) -> tuple[Gate, ...]:
        return (self.hosts, *self._adapters.values())
