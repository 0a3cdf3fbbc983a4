"""The traffic of `lorajax demo`, and what is seen of it. Owns: who is asked when, what was counted, what has moved.

Does not: draw (demo_view.py) or start anything.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from cluster.client import Client
from cluster.records import AdapterInfo, AdapterUse, Message, Piece, Placement, Question
from lorajax.spec import Level, Sampling

_FAVOUR = 0.85
"""Part of the requests that the favourite gets; the others share the rest."""
_WINDOW_S = 3.0
"""Tokens are counted over this long: longer than a request, so that the figure is calm."""
_LOOK_EVERY_S = 0.5
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Short requests in a closed loop: each stream asks again when it has its answer."""

    questions: Mapping[str, str]
    """What each adapter is asked."""
    favourites: tuple[str, ...]
    """Who is asked most, one after another, each for an equal part of the time."""
    span_s: float = 16.0
    num_streams: int = 8
    max_tokens: int = 24

    def favourite(self, at_s: float) -> str:
        """Who is asked most so long after the start."""
        number = int(len(self.favourites) * at_s / self.span_s)
        return self.favourites[min(number, len(self.favourites) - 1)]

    def weights(self, at_s: float) -> dict[str, float]:
        """Part of the requests that each adapter gets so long after the start; they sum to 1."""
        favourite = self.favourite(at_s)
        if len(self.questions) == 1:
            return {favourite: 1.0}
        rest = (1 - _FAVOUR) / (len(self.questions) - 1)
        return {name: _FAVOUR if name == favourite else rest for name in self.questions}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One adapter at one moment."""

    name: str
    rank: int
    tokens_per_s: float
    """Generated, of late."""
    share_of: Mapping[str, float]
    """Host -> part of its traffic."""
    level_of: Mapping[str, Level]
    """Host -> where its copy is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The burst at one moment."""

    elapsed_s: float
    span_s: float
    favourite: str
    rows: tuple[Row, ...]
    num_tokens: int
    first_token_s: float
    """The median so far; 0 before there is any."""
    num_rounds: int
    num_moves: int
    """Copies that have appeared or gone."""
    bytes_moved: int
    """Of the copies that have appeared."""

    @property
    def tokens_per_s(self) -> float:
        """Generated for all adapters, since the beginning."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(slots=True, kw_only=True)
class Record:
    """What has been seen of a cluster so far; times are seconds since the traffic began."""

    traffic: Traffic
    _tokens: list[tuple[float, str]] = field(default_factory=list)
    _waits_s: list[float] = field(default_factory=list)
    _adapters: tuple[AdapterInfo, ...] = ()
    _placement: Placement | None = None
    _num_moves: int = 0
    _bytes_moved: int = 0

    def token(self, adapter: str, at_s: float, wait_s: float | None = None) -> None:
        """Count a generated token; the first one of an answer comes with how long it took."""
        self._tokens.append((at_s, adapter))
        if wait_s is not None:
            self._waits_s.append(wait_s)

    def place(self, placement: Placement) -> None:
        """Take the newest placement."""
        self._placement = placement

    def look(self, adapters: Sequence[AdapterInfo]) -> None:
        """Take where copies are now; against the look before, some have moved."""
        if self._adapters:
            before, now = _copies(self._adapters), _copies(adapters)
            self._num_moves += len(before.keys() ^ now.keys())
            self._bytes_moved += sum(now[copy] for copy in now.keys() - before.keys())
        self._adapters = tuple(adapters)

    def board(self, at_s: float) -> Board:
        """How things stand."""
        return Board(
            elapsed_s=at_s,
            span_s=self.traffic.span_s,
            favourite=self.traffic.favourite(at_s),
            rows=tuple(self._row(info, at_s) for info in self._adapters),
            num_tokens=len(self._tokens),
            first_token_s=median(self._waits_s) if self._waits_s else 0.0,
            num_rounds=self._placement.round if self._placement else 0,
            num_moves=self._num_moves,
            bytes_moved=self._bytes_moved,
        )

    def _row(self, info: AdapterInfo, at_s: float) -> Row:
        late = sum(name == info.name and at_s - _WINDOW_S < when_s <= at_s for when_s, name in self._tokens)
        shares = self._placement.shares if self._placement else ()
        return Row(
            name=info.name,
            rank=info.rank,
            tokens_per_s=late / min(_WINDOW_S, at_s) if at_s else 0.0,
            share_of={host: share for name, host, share in shares if name == info.name},
            level_of=dict(info.level_of),
        )


def _copies(adapters: Sequence[AdapterInfo]) -> dict[tuple[str, str], int]:
    """(adapter, host) -> bytes, for each copy in memory."""
    return {(info.name, host): info.num_bytes for info in adapters for host, _ in info.level_of}


async def burst(client: Client, record: Record, show: Callable[[Board], None]) -> Board:
    """Keep the cluster busy with the record's traffic; `show` hears twice a second how things stand.

    Raises: ClientError where a request fails.
    """
    traffic, start_s = record.traffic, time.monotonic()

    def now_s() -> float:
        return time.monotonic() - start_s

    async def look() -> None:
        while True:
            record.look(await client.adapters())
            show(record.board(now_s()))
            await asyncio.sleep(_LOOK_EVERY_S)

    async def watch() -> None:
        async for placement in client.placements():
            record.place(placement)

    async def stream(number: int) -> None:
        chance = random.Random(number)  # noqa: S311  # who is asked next is no secret
        while (at_s := now_s()) < traffic.span_s:
            weights = traffic.weights(at_s)
            (name,) = chance.choices(list(weights), list(weights.values()))
            await _ask(client, record, name, now_s)

    try:
        async with asyncio.TaskGroup() as tasks:
            watching = (tasks.create_task(look()), tasks.create_task(watch()))
            streams = [tasks.create_task(stream(number)) for number in range(traffic.num_streams)]
            await asyncio.wait(streams)
            for task in watching:
                task.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    record.look(await client.adapters())
    return record.board(now_s())


async def _ask(client: Client, record: Record, name: str, now_s: Callable[[], float]) -> None:
    question = Question(
        prompt=(Message(role="user", content=record.traffic.questions[name]),),
        sampling=Sampling(max_tokens=record.traffic.max_tokens),
        adapters=(AdapterUse(name=name),),
    )
    sent_s, is_first = now_s(), True
    async for reply in client.generate(question, timeout_s=_TIMEOUT_S):
        if isinstance(reply, Piece):
            at_s = now_s()
            record.token(name, at_s, at_s - sent_s if is_first else None)
            is_first = False
