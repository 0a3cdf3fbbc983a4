"""Which requests one host has in flight. Owns: who may come in, and when all have left. Does not: serve them."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from lorajax.errors import DuplicateRequest, Overloaded, Unavailable
from lorajax.spec import Event, Failed

MAX_TAKEN = 128
"""Events taken at once, so that a reader who fell behind still gets messages of a size that any client accepts."""


class State(StrEnum):
    """Whether a host takes requests."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Flight:
    """One request between its arrival and its last reply.

    Invariant: holds at most `max_events` events that its reader has not taken; the engine makes no more per request.
    `sink` may be called from any thread, everything else on the event loop.
    """

    def __init__(self, request_id: str, names: tuple[str, ...], max_events: int) -> None:
        """Belongs to the running event loop."""
        self.request_id = request_id
        self.names = names
        self.has_started = False
        """Whether its first token came."""
        self.num_prompt_tokens = 0
        """Once they are known."""
        self.fetch_s = 0.0
        """How long it waited for its adapters to come to this host."""
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue(max_events)

    def sink(self, event: Event) -> None:
        """Hand over an event; never blocks."""
        # The loop is closed only once nobody reads: a late event of a cancelled request has no one to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # only `end` after a reader that has all its events waiting
            self._events.put_nowait(event)

    async def take(self) -> list[Event]:
        """The next events that have come, 1 … MAX_TAKEN; waits for the first."""
        events = [await self._events.get()]
        while len(events) < MAX_TAKEN and not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    def end(self, error: Exception) -> None:
        """End the request with an error, after the events it already has."""
        self._put(Failed(request_id=self.request_id, error=error))


class Admission:
    """The requests in flight.

    Invariant: no two have the same id, there are at most `max_streams`, and none came in unless SERVING.
    Owner: the event loop.
    """

    def __init__(self, max_streams: int) -> None:
        """Start closed."""
        self.state = State.STARTING
        self._max_streams = max_streams
        self._flights: dict[str, Flight] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def require_serving(self) -> None:
        """Raise Unavailable unless SERVING."""
        if self.state is not State.SERVING:
            raise Unavailable(f"this host is {self.state}; try again, or another host", retry_s=1.0)

    @contextlib.contextmanager
    def open(self, request_id: str, names: tuple[str, ...], max_events: int) -> Iterator[Flight]:
        """Keep the request in flight while the block runs. Raises: Unavailable, DuplicateRequest or Overloaded."""
        self.require_serving()
        if request_id in self._flights:
            raise DuplicateRequest(f"request {request_id!r} is in flight; wait for it, or send another request_id")
        if len(self._flights) >= self._max_streams:
            raise Overloaded(f"{self._max_streams} requests are in flight on this host; try again")
        flight = self._flights[request_id] = Flight(request_id, names, max_events)
        self._empty.clear()
        try:
            yield flight
        finally:
            del self._flights[request_id]
            if not self._flights:
                self._empty.set()

    def __len__(self) -> int:
        """Requests in flight."""
        return len(self._flights)

    @property
    def num_waiting_tokens(self) -> int:
        """Prompt tokens of the requests that have had no token yet."""
        return sum(flight.num_prompt_tokens for flight in self._flights.values() if not flight.has_started)

    def end_all(self, error: Exception) -> None:
        """End every request in flight."""
        for flight in self._flights.values():
            flight.end(error)

    async def wait_empty(self) -> None:
        """Return once none is in flight."""
        await self._empty.wait()

    def names(self, *, running: bool) -> Counter[str]:
        """Requests by adapter name: those that have had a token, or those that wait for it. Any thread may ask."""
        flights = tuple(self._flights.values())
        return Counter(name for flight in flights if flight.has_started is running for name in flight.names)
