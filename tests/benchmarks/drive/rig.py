"""Drivers without real time and real servers. Owns: a loop whose clock jumps, servers that answer by a script."""

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.drive.names import Stand
from benchmarks.drive.open_loop import Sending, Sent, send
from benchmarks.drive.records import Call, CallFailed, Ending, Offer
from benchmarks.workloads.records import Arrival, Workload


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while anything runs, and jumps to the next timer when nothing does."""

    def __init__(self):
        asyncio.SelectorEventLoop.__init__(self, _Jumping(self))
        self.now_s = 0.0

    def time(self):
        return self.now_s


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop):
        selectors.SelectSelector.__init__(self)
        self._loop = loop

    def select(self, timeout=None):
        if timeout:
            self._loop.now_s += timeout
        return selectors.SelectSelector.select(self, 0)


def virtual(coroutine):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


@dataclass
class OneAtATime:
    """Answers one request after the other, each in `answer_s`: half of it before the first token, half after it."""

    answer_s: float = 0.1
    stalls: Mapping[int, float] = field(default_factory=dict)
    """Number of a request -> seconds for which the server stands still when its turn comes."""
    fails: Mapping[int, str] = field(default_factory=dict)
    lacks: int = 0
    """Tokens that each answer has too few."""
    first_token_s: float | None = None
    """What it says of its own wait for the first token."""
    calls: list[Call] = field(default_factory=list)
    most_at_once: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    at_once: int = 0

    async def offer(self) -> Offer:
        return Offer(name="fake", ranks={"a": 8, "b": 16})

    async def generate(self, call: Call, heard: Callable[[int], None]) -> Ending:
        number = len(self.calls)
        self.calls.append(call)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            async with asyncio.timeout(call.timeout_s), self.turn:
                await asyncio.sleep(self.stalls.get(number, 0.0) + self.answer_s / 2)
                heard(1)
                if number in self.fails:
                    raise CallFailed(self.fails[number], "as told")
                await asyncio.sleep(self.answer_s / 2)
                heard(call.max_tokens - 1 - self.lacks)
        except TimeoutError:
            raise CallFailed("DEADLINE_EXCEEDED", "too late") from None
        finally:
            self.at_once -= 1
        return Ending(prompt_tokens=None, output_tokens=None, host="host-0", first_token_s=self.first_token_s)


STANDS = {"a": Stand("a", 8), "b": Stand("b", 16)}


def workload(*at_s: float, adapter: str = "a", prompt_tokens: int = 10, output_tokens: int = 4) -> Workload:
    arrivals = tuple(Arrival(one, prompt_tokens, output_tokens, adapter) for one in at_s)
    return Workload(name="by hand", arrivals=arrivals, ranks={"a": 8, "b": 16})


def sent(server, given: Workload, **sending) -> Sent:
    return virtual(send(given, STANDS, server, Sending(**sending)))


@contextlib.asynccontextmanager
async def http_script(*replies: Sequence[bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A socket that answers the requests of each connection with these parts, in turns; its URL, what it was sent.

    An empty part closes the connection. The last reply is said again and again.
    """
    seen: list[bytes] = []

    async def talk(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-len"))
                seen.append(head + await reader.readexactly(length))
                for part in replies[min(len(seen), len(replies)) - 1]:
                    if not part:
                        return writer.close()
                    writer.write(part)
        return writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
