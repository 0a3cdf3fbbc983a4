"""How many requests the front door has sent on, and who is let in next. Owns: the count and the waiting room.

Does not: choose hosts. What waits here can still go anywhere and is served fairly; what waits at a host cannot.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from cluster.fair_queue import FairQueue


class Gate:
    """At most `limit()` requests inside; the tenants that wait take turns.

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
    async def entered(self, tenant: str, key: str, cost: float) -> AsyncIterator[None]:
        """Be inside while the block runs, after waiting for it. Raises Overloaded where too many wait already."""
        await self._enter(tenant, key, cost)
        try:
            yield
        finally:
            self._leave()

    def admit(self) -> None:
        """Let in whom there is room for; to be called when `limit` has grown."""
        while self._turns and self._num_inside < self._limit():
            key = self._queue.take()
            assert key is not None, "every turn has its place in the queue"
            self._num_inside += 1
            if not (turn := self._turns.pop(key)).done():  # else its caller has just left, and gives the room back
                turn.set_result(None)

    async def _enter(self, tenant: str, key: str, cost: float) -> None:
        if not self._turns and self._num_inside < self._limit():
            self._num_inside += 1
            return
        self._queue.put(tenant, key, cost)
        turn = self._turns[key] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except asyncio.CancelledError:
            if self._turns.pop(key, None) is None:
                self._leave()  # was let in at the very moment its caller left
            else:
                self._queue.remove(key)
            raise

    def _leave(self) -> None:
        self._num_inside -= 1
        self.admit()
