"""Virtual time. Owns: what happens next. Knows nothing of what happens."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

type Action = Callable[[], None]


@dataclass(eq=False, slots=True)
class Timer:
    """Something that is to happen; `cancel` keeps it from happening."""

    action: Action | None

    def cancel(self) -> None:
        """Forget it, if it has not happened yet."""
        self.action = None


class Clock:
    """Actions in order of time, then of turn, then as they were asked for.

    Invariant: time never goes back.
    """

    def __init__(self) -> None:
        """Begin at 0."""
        self.now_s = 0.0
        self._queue: list[tuple[float, int, int, Timer]] = []
        self._numbers = count()

    def at(self, when_s: float, action: Action, turn: int = 0) -> Timer:
        """Have something happen then; of what happens at one moment, what has the smaller turn comes first."""
        assert when_s >= self.now_s, f"{when_s} s has passed, it is {self.now_s} s"
        timer = Timer(action)
        heapq.heappush(self._queue, (when_s, turn, next(self._numbers), timer))
        return timer

    def after(self, wait_s: float, action: Action) -> Timer:
        """Have something happen so much later."""
        return self.at(self.now_s + wait_s, action)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let time pass until it is over, or nothing is left to happen."""
        queue = self._queue
        while queue and not is_over():
            when_s, _, _, timer = heapq.heappop(queue)
            if (action := timer.action) is not None:
                self.now_s = when_s
                timer.action = None
                action()
