"""The shell round the coordinator. Owns: the clock, the hosts' connections, durable writes, who waits for which answer.

Does not: decide (coordinator.py does), read adapters, or relay requests. One event loop, and `step` never waits: so
nothing here needs a lock.
"""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import grpc

from cluster import control_pb2, control_wire
from cluster.coordinator import Coordinator
from cluster.events import (
    Answer,
    Command,
    DrainAsked,
    Event,
    Forget,
    HostCommand,
    HostLeft,
    LoadAsked,
    PinAsked,
    Publish,
    RebalanceAsked,
    Refuse,
    Restored,
    Save,
    Tick,
    UnloadAsked,
)
from cluster.registry import Registry
from cluster.view import HostName, Table
from lorajax.errors import Unavailable

_LOG = logging.getLogger("lorajax")
TICK_S = 0.25
_HELLO_S = 5.0
GATHER_S = 0.05
"""Changes that come within this time share a table: with many adapters one takes long to write and to read."""
_MAX_BEHIND = 256
"""Updates that a watcher may lag."""

type Asked = LoadAsked | UnloadAsked | PinAsked | DrainAsked | RebalanceAsked


@dataclass(eq=False, slots=True)
class Connection:
    """One host's stream, and what it said last."""

    hello: control_pb2.Hello
    orders: asyncio.Queue[control_pb2.HostCommand | None] = field(default_factory=asyncio.Queue)
    """What it still has to be told; None ends the stream."""


class ControlService:
    """Answers `lorajax.control.v1.Control` and gives orders to hosts. Owner: the event loop.

    Invariant: every call of `ask` is answered once, and what was saved before an answer is durable when it is given.
    Once a write has failed memory is ahead of the disk: nothing more is done or told, and `run` ends the process.
    """

    def __init__(self, coordinator: Coordinator, registry: Registry, fingerprint: str) -> None:
        """Begin from what the registry holds; hosts with another `fingerprint` are refused. Needs a running loop."""
        self._coordinator = coordinator
        self._registry = registry
        self._fingerprint = fingerprint
        self.connections: dict[HostName, Connection] = {}
        self._calls = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._watchers: set[asyncio.Queue[control_pb2.TableUpdate | None]] = set()
        self._changed = asyncio.Event()
        self._round = 0
        self.is_ready = False
        """Whether the cluster has been complete once; part of the table that gateways get."""
        self._publishing: asyncio.TimerHandle | None = None
        self._failure: asyncio.Future[sqlite3.Error] = asyncio.get_running_loop().create_future()
        """Why the registry could not be written."""
        registrations, self._round = registry.load()
        self.was_placed = self._round > 0
        """Whether an earlier coordinator has placed this cluster: it is running, and its gateways have a table."""
        self.step(Restored(registrations=registrations, round=self._round))

    def table(self) -> Table:
        """The routing table as it is now."""
        return self._coordinator.table()

    def step(self, event: Event) -> None:
        """Let the coordinator know, and carry out what it orders, in order."""
        if self._failure.done():
            return
        try:
            for command in self._coordinator.step(event):
                self._carry_out(command)
        except sqlite3.Error as error:
            self._fail(error)

    def _fail(self, error: sqlite3.Error) -> None:
        self._failure.set_result(error)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_restarting())

    async def ask(self, asked: Asked) -> Answer:
        """The coordinator's answer to a call. Raises the LorajaxError it refuses with; Unavailable after a failure."""
        if self._failure.done():
            raise _restarting()
        future = self._waiting[asked.call] = asyncio.get_running_loop().create_future()
        try:
            self.step(asked)
            return await future
        finally:
            self._waiting.pop(asked.call, None)

    def next_call(self) -> int:
        """A number for a call."""
        return next(self._calls)

    async def run(self) -> None:
        """Let time pass, until a write fails. Raises the sqlite3.Error then."""
        while not self._failure.done():
            self.step(Tick(now_s=time.monotonic()))
            await asyncio.wait((self._failure,), timeout=TICK_S)
        raise self._failure.result()

    def close(self) -> None:
        """End every stream."""
        for connection in self.connections.values():
            connection.orders.put_nowait(None)
        for watcher in self._watchers:
            watcher.put_nowait(None)

    async def changes(self) -> AsyncIterator[Table]:
        """The table, then again after each change that lasted for a moment."""
        while True:
            changed = self._changed  # before the table: what changes while its reader is busy is not missed
            yield self.table()
            await changed.wait()

    def publish(self) -> None:
        """Tell everybody who watches the table, now."""
        if self._failure.done():
            return
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        update = control_pb2.TableUpdate(table=control_wire.table_to_proto(self.table()))
        update.table.is_ready = self.is_ready
        self._tell(update)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Join(
        self, messages: AsyncIterator[control_pb2.HostMessage], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[control_pb2.HostCommand]:
        """A host's whole life."""
        async with asyncio.timeout(_HELLO_S):
            first = await anext(aiter(messages), None)
        if first is None or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message of a host must be its hello")
            return
        hello = first.hello
        if hello.fingerprint != self._fingerprint:
            _LOG.error("host %s refused: it serves %s, not %s", hello.host, hello.fingerprint, self._fingerprint)
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"host {hello.host} serves {hello.fingerprint}, this cluster {self._fingerprint}; "
                "start every host with the same model, dtype and lorajax",
            )
        connection = self._welcome(hello)
        reading = asyncio.create_task(self._read(connection, messages))
        try:
            while (order := await connection.orders.get()) is not None:
                yield order
        finally:
            reading.cancel()
            self._bid_farewell(connection)

    def _welcome(self, hello: control_pb2.Hello) -> Connection:
        name = HostName(hello.host)
        if (old := self.connections.pop(name, None)) is not None:
            old.orders.put_nowait(None)
            self.step(HostLeft(host=name, incarnation=old.hello.incarnation, now_s=time.monotonic()))
        connection = self.connections[name] = Connection(hello)
        _LOG.info("host %s joined from %s", name, hello.address)
        self.step(control_wire.hello_from_proto(hello, time.monotonic()))
        return connection

    async def _read(self, connection: Connection, messages: AsyncIterator[control_pb2.HostMessage]) -> None:
        hello = connection.hello
        try:
            async for message in messages:
                if self.connections.get(HostName(hello.host)) is not connection:
                    return  # an earlier life: a new one has joined
                now_s = time.monotonic()
                if message.HasField("beat"):
                    self._take_beat(hello, message.beat, now_s)
                elif message.HasField("outcome"):
                    self.step(control_wire.outcome_from_proto(message.outcome))
        finally:
            connection.orders.put_nowait(None)

    def _take_beat(self, hello: control_pb2.Hello, beat: control_pb2.Beat, now_s: float) -> None:
        self.step(control_wire.beat_from_proto(hello.host, hello.incarnation, beat, now_s))
        hello.beat.uptime_s = beat.uptime_s
        self._tell(
            control_pb2.TableUpdate(
                beats=control_pb2.HostBeats(beats=[control_pb2.HostBeat(host=hello.host, beat=beat)])
            )
        )

    def _bid_farewell(self, connection: Connection) -> None:
        name = HostName(connection.hello.host)
        if self.connections.get(name) is connection:
            del self.connections[name]
            _LOG.info("host %s left", name)
            self.step(HostLeft(host=name, incarnation=connection.hello.incarnation, now_s=time.monotonic()))

    async def WatchTable(
        self, message: control_pb2.WatchTableRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[control_pb2.TableUpdate]:
        """The table, then every change."""
        with self.watching() as updates:
            while (update := await updates.get()) is not None:
                yield update

    @contextlib.contextmanager
    def watching(self) -> Iterator[asyncio.Queue[control_pb2.TableUpdate | None]]:
        """Updates as they come, the whole table first; a watcher that falls far behind is ended, and asks again."""
        queue: asyncio.Queue[control_pb2.TableUpdate | None] = asyncio.Queue()
        update = control_pb2.TableUpdate(table=control_wire.table_to_proto(self.table()))
        update.table.is_ready = self.is_ready
        queue.put_nowait(update)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def _tell(self, update: control_pb2.TableUpdate) -> None:
        for watcher in tuple(self._watchers):
            if watcher.qsize() > _MAX_BEHIND:
                self._watchers.discard(watcher)
                watcher.put_nowait(None)
            else:
                watcher.put_nowait(update)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Save(registration=registration):
                self._registry.save(registration)
            case Forget(name=name):
                self._registry.forget(name)
            case Publish():
                self._publish()
            case Answer(call=call):
                if self._publishing is not None:
                    self.publish()  # who asked may use it at once
                if (future := self._waiting.get(call)) is not None and not future.done():
                    future.set_result(command)
            case Refuse(call=call, error=error):
                if (future := self._waiting.get(call)) is not None and not future.done():
                    future.set_exception(error)
            case _:
                self._order(command)

    def _publish(self) -> None:
        if (number := self.table().round) != self._round:
            self._round = number
            try:
                self._registry.save_round(number)
            except sqlite3.Error as error:  # serving needs none of it
                _LOG.warning("the round is not durable: %s", error)
        if self._publishing is None:
            self._publishing = asyncio.get_running_loop().call_later(GATHER_S, self.publish)

    def _order(self, command: HostCommand) -> None:
        addresses = {name: connection.hello.address for name, connection in self.connections.items()}
        if (connection := self.connections.get(command.host)) is not None:
            connection.orders.put_nowait(control_wire.command_to_proto(command, addresses))


def _restarting() -> Unavailable:
    return Unavailable("the coordinator cannot write its registry and starts anew; try again")
