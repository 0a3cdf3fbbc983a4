"""An engine kept busy with so many requests for a while. Owns: one trial, its clock and its arithmetic.

Does not: choose trials, or know what a request asks for.
"""

import queue
import time
from collections.abc import Callable

from cluster.profile_points import Trial, percentile_95
from cluster.seams import Engine
from lorajax.errors import Unavailable
from lorajax.spec import Event, Failed, Request, TokenEvent

_WAIT_S = 120.0
MIN_FIRST_TOKENS = 4
"""Fewer say nothing of latency; a trial goes on until there are as many, and a second token of some request."""


class Tally:
    """Tokens of one trial, told in the order in which they came.

    Counts from the `concurrency`-th first token on, when all that is sent together at the start has been read, and up
    to the first one after `span_s`: so where one runs at a time, whole requests are counted.
    """

    def __init__(self, concurrency: int, span_s: float) -> None:
        """Expect the tokens of so many requests at a time."""
        self._concurrency, self._span_s = concurrency, span_s
        self._num_early = concurrency
        self._unread: dict[str, tuple[int, float]] = {}
        """Prompt tokens of the requests without a token, and when they were sent."""
        self._last_s: dict[str, float] = {}
        """When each other request had its last token."""
        self._start_s = self._end_s = 0.0
        self._num_tokens = 0
        self._waits_s: list[float] = []
        self._gaps_s: list[float] = []
        self.is_full = False

    @property
    def in_flight(self) -> set[str]:
        """Ids of the requests that have not ended."""
        return self._unread.keys() | self._last_s.keys()

    def sent(self, request: Request, at_s: float) -> None:
        """Expect a request's tokens."""
        self._unread[request.id] = len(request.prompt), at_s

    def token(self, request_id: str, at_s: float) -> None:
        """Count a token, and a prompt with the first one."""
        is_counting = not self._num_early and not self.is_full
        if request_id in self._last_s:
            if is_counting:
                self._num_tokens += 1
                self._gaps_s.append(at_s - self._last_s[request_id])
        else:
            num_prompt, sent_s = self._unread.pop(request_id)
            if is_counting:
                self._num_tokens += num_prompt + 1
                self._waits_s.append(at_s - sent_s)
                self._end_s = at_s
                has_seen = len(self._waits_s) >= MIN_FIRST_TOKENS and bool(self._gaps_s)
                self.is_full = has_seen and at_s >= self._start_s + self._span_s
            elif self._num_early:
                self._num_early -= 1
                self._start_s = at_s
        self._last_s[request_id] = at_s

    def ended(self, request_id: str) -> None:
        """Expect nothing more of a request."""
        self._unread.pop(request_id, None)
        self._last_s.pop(request_id, None)

    def trial(self) -> Trial:
        """What came of it, once it is full."""
        return Trial(
            concurrency=self._concurrency,
            tokens_per_s=self._num_tokens / (self._end_s - self._start_s),
            ttft_p95_s=percentile_95(self._waits_s),
            tbt_p95_s=percentile_95(self._gaps_s),
        )


def measure(engine: Engine, request: Callable[[int], Request], concurrency: int, span_s: float) -> Trial:
    """Keep so many streams of requests going, each its next `request(stream)` when the last has ended; what came of it.

    Nothing is left running. Raises: what a request fails with; Unavailable if the engine stands still.
    """
    news: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
    tally = Tally(concurrency, span_s)
    streams: dict[str, int] = {}

    def send(stream: int) -> None:
        asked = request(stream)
        streams[asked.id] = stream
        tally.sent(asked, time.perf_counter())
        engine.submit(asked, lambda event: news.put((time.perf_counter(), event)))

    try:
        for stream in range(concurrency):
            send(stream)
        while not tally.is_full:
            at_s, event = news.get(timeout=_WAIT_S)
            if isinstance(event, TokenEvent):
                tally.token(event.request_id, at_s)
                continue
            tally.ended(event.request_id)
            if isinstance(event, Failed):
                raise event.error
            send(streams.pop(event.request_id))
    except queue.Empty:
        raise Unavailable(f"the engine gave no token for {_WAIT_S:g} s") from None
    finally:
        for request_id in tally.in_flight:
            engine.cancel(request_id)
    return tally.trial()
