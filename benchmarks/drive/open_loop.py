"""Requests sent when they are due, whatever became of the earlier ones. Owns: the pace, and the clock of each answer.

There is no coordinated omission: what is due comes from the workload alone, all latencies count from there, and a
request that waits for room (`max_concurrency`), or for a driver that is late, is charged for the wait.
Does not: know a protocol, or compute a statistic.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.drive.names import Stand
from benchmarks.drive.prompts import Lengths, lengths, prompt
from benchmarks.drive.records import Call, CallFailed, Ending, Prompt, Server
from benchmarks.outcomes.records import Outcome
from benchmarks.workloads.records import Arrival, Workload

NOT_SENT = "NOT_SENT"
"""The code of a request that was not due yet when the run was stopped."""
_BASE = Stand("", 0)
_UNKNOWN = Ending(prompt_tokens=None, output_tokens=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How a workload is sent."""

    timeout_s: float = 600.0
    """After it was due, a request is given up."""
    max_concurrency: int | None = None
    """In flight at once; who comes later waits, and that counts as latency. None: no bound."""
    max_model_len: int | None = None
    """Longer requests are cut to it."""
    is_text: bool = False
    """Prompts are text instead of token ids."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a workload."""

    outcomes: tuple[Outcome, ...]
    began_s: float
    """On the clock of `time.monotonic`, from where all other times count."""
    span_s: float
    num_clipped: int
    """Requests that were cut to the server's context."""
    num_short: int
    """Answers with fewer tokens than were asked for, whatever their end: less work than the workload has."""
    num_uncounted: int
    """Answers of which the server did not say how many tokens they have: messages stand for tokens."""
    endings: tuple[Ending | None, ...]
    """What the server said of each; None of those that failed."""
    words: Mapping[str, str]
    """By code: what the first request that failed so was told."""
    is_whole: bool
    """Whether nobody stopped it early."""


@dataclass(slots=True)
class _Hearing:
    """When tokens of one answer came. Owner: the request's task."""

    token_s: list[float] = field(default_factory=list)
    num_tokens: int = 0


async def send(workload: Workload, stands: Mapping[str, Stand], server: Server, sending: Sending) -> Sent:
    """Send all of it; returns once all have ended, or, when cancelled, once what is in flight was given up."""
    return await _Driver(workload, stands, server, sending).run()


class _Driver:
    """One workload on its way.

    Invariant: a request that was sent has exactly one outcome, at its own place.
    """

    def __init__(self, workload: Workload, stands: Mapping[str, Stand], server: Server, sending: Sending) -> None:
        self._arrivals, self._stands, self._server, self._sending = workload.arrivals, stands, server, sending
        self._lengths = [lengths(arrival, sending.max_model_len) for arrival in self._arrivals]
        self._outcomes: list[Outcome | None] = [None] * len(self._arrivals)
        self._words: dict[str, str] = {}
        self._endings: list[Ending | None] = [None] * len(self._arrivals)
        self._room = asyncio.Semaphore(sending.max_concurrency or max(1, len(self._arrivals)))
        self._clock = asyncio.get_running_loop().time
        self._start_s = self._clock()

    async def run(self) -> Sent:
        """Send, wait, tell."""
        is_whole = True
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, arrival in enumerate(self._arrivals):
                    asked = self._prompt(number)  # made before it is due: that takes time, and is not the server's
                    await asyncio.sleep(arrival.at_s - self._now_s())
                    tasks.create_task(self._send(number, asked))
        except asyncio.CancelledError:  # our caller wants what there is
            is_whole = False
        span_s = self._now_s()
        return Sent(
            outcomes=tuple(self._outcome(number, span_s) for number in range(len(self._arrivals))),
            began_s=self._start_s,
            span_s=span_s,
            num_clipped=sum(map(_is_clipped, self._arrivals, self._lengths)),
            num_short=sum(map(_is_short, self._outcomes, self._lengths)),
            num_uncounted=sum(one is not None and one.output_tokens is None for one in self._endings),
            endings=tuple(self._endings),
            words=self._words,
            is_whole=is_whole,
        )

    async def _send(self, number: int, asked: Prompt) -> None:
        hearing, ending, code = _Hearing(), _UNKNOWN, "CANCELLED"
        sent_s = math.inf

        def heard(num_tokens: int) -> None:
            hearing.token_s.append(self._now_s())
            hearing.num_tokens += num_tokens

        try:
            async with self._room:
                sent_s = self._now_s()
                ending = await self._server.generate(self._call(number, asked, sent_s), heard)
            code, self._endings[number] = "OK", ending
        except CallFailed as error:
            code = error.code
            self._words.setdefault(code, str(error))
        finally:
            self._keep(number, hearing, ending, code, min(sent_s, self._now_s()))

    def _prompt(self, number: int) -> Prompt:
        sending, size = self._sending, self._lengths[number]
        return prompt(size.prompt_tokens, sending.seed, number, is_text=sending.is_text)

    def _call(self, number: int, asked: Prompt, sent_s: float) -> Call:
        arrival, sending, size = self._arrivals[number], self._sending, self._lengths[number]
        timeout_s = arrival.at_s + sending.timeout_s - sent_s
        if timeout_s <= 0:
            raise CallFailed("DEADLINE_EXCEEDED", "given up before there was room to send it")
        return Call(
            prompt=asked,
            max_tokens=size.output_tokens,
            adapter=self._stand(arrival).name,
            timeout_s=timeout_s,
        )

    def _keep(self, number: int, hearing: _Hearing, ending: Ending, code: str, sent_s: float) -> None:
        arrival = self._arrivals[number]
        self._outcomes[number] = Outcome(
            due_s=arrival.at_s,
            adapter=arrival.adapter,
            rank=self._stand(arrival).rank,
            prompt_tokens=ending.prompt_tokens or self._lengths[number].prompt_tokens,
            output_tokens=ending.output_tokens or hearing.num_tokens,
            sent_s=sent_s,
            first_s=hearing.token_s[0] if hearing.token_s else math.inf,
            end_s=self._now_s() if code == "OK" else math.inf,
            code=code,
            host=ending.host,
            token_s=tuple(hearing.token_s),
            tenant=arrival.tenant,
        )

    def _outcome(self, number: int, stopped_s: float) -> Outcome:
        """Of a request, also of one that was never sent."""
        if (known := self._outcomes[number]) is not None:
            return known
        arrival = self._arrivals[number]
        return Outcome(
            due_s=arrival.at_s,
            adapter=arrival.adapter,
            rank=self._stand(arrival).rank,
            prompt_tokens=self._lengths[number].prompt_tokens,
            output_tokens=0,
            sent_s=max(arrival.at_s, stopped_s),
            code=NOT_SENT,
            tenant=arrival.tenant,
        )

    def _stand(self, arrival: Arrival) -> Stand:
        return self._stands[arrival.adapter] if arrival.adapter else _BASE

    def _now_s(self) -> float:
        return self._clock() - self._start_s


def _is_short(outcome: Outcome | None, size: Lengths) -> bool:
    return outcome is not None and outcome.code == "OK" and outcome.output_tokens < size.output_tokens


def _is_clipped(arrival: Arrival, size: Lengths) -> bool:
    return size.prompt_tokens < arrival.prompt_tokens or size.output_tokens < arrival.output_tokens
