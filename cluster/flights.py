"""Which requests a front door has on their way. Owns: who may come in, and how all of them end. Does not: send them."""

import asyncio
import contextlib
from collections.abc import Iterator

from lorajax.errors import DuplicateRequest, Unavailable

_GOING = "this front door is going; ask again, another process will answer"


class Flights:
    """Invariant: no two have the same id, and none came in after `drain`. Owner: the event loop."""

    def __init__(self) -> None:
        """Start empty and open."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._is_draining = self._has_ended = False

    def __len__(self) -> int:
        """Requests on their way."""
        return len(self._tasks)

    def drain(self) -> None:
        """Let no more come in."""
        self._is_draining = True

    async def wait_empty(self) -> None:
        """Return once none is on its way."""
        await self._empty.wait()

    def end_all(self) -> None:
        """End those that are still on their way: Unavailable, in words of our own."""
        self._is_draining = self._has_ended = True
        for task in self._tasks.values():
            task.cancel()

    @contextlib.contextmanager
    def open(self, request_id: str) -> Iterator[None]:
        """Keep this task's request among them while the block runs. Raises: Unavailable; DuplicateRequest."""
        if self._is_draining:
            raise Unavailable(_GOING)
        if request_id in self._tasks:
            raise DuplicateRequest(f"request {request_id!r} is in flight; wait for it, or send another request_id")
        task = asyncio.current_task()
        assert task is not None, "the event loop runs nothing else"
        self._tasks[request_id] = task
        self._empty.clear()
        try:
            yield
        except asyncio.CancelledError:
            if not self._has_ended:
                raise
            task.uncancel()
            raise Unavailable(_GOING) from None
        finally:
            del self._tasks[request_id]
            if not self._tasks:
                self._empty.set()


def has_left() -> bool:
    """Whether the caller of this task's request has left, beside whatever else was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
