"""What a host does when the coordinator tells it to. Owns: that every order has one outcome, and the way of a ticket.

Does not: speak with the coordinator (membership.py), keep adapters (adapter_pool.py), or order collectives
(tickets.py).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from cluster import control_pb2
from cluster.adapter_pool import AdapterPool
from cluster.control_wire import HERE, Arrival, Hint, Outcome, command_from_proto, outcome_to_proto
from cluster.events import (
    CommandFailed,
    Done,
    DrainHost,
    DropAdapter,
    FetchAdapter,
    FolderRead,
    HostCommand,
    PinAdapter,
    ReadFolder,
    SendAdapter,
)
from cluster.peer import Prepares
from cluster.tickets import Tickets
from cluster.view import HostName
from lorajax.adapter_pages import from_bytes, pieces
from lorajax.errors import EngineFailure, LorajaxError
from lorajax.spec import Version

_LOG = logging.getLogger(__name__)


class OrderRunner:
    """Carries orders out, side by side. Owner: the event loop."""

    def __init__(self, host: HostName, pool: AdapterPool, tickets: Tickets, drain: Callable[[], int]) -> None:
        """Work for a host with this pool; `drain` lets it end."""
        self._host = host
        self._pool = pool
        self._tickets = tickets
        self._drain = drain
        self._prepares = Prepares()

    async def outcome(self, message: control_pb2.HostCommand) -> control_pb2.Outcome:
        """Carry one order out; what went wrong is its outcome, too."""
        outcome: Outcome
        arrival, number = HERE, message.number
        try:
            outcome, arrival = await self._done(*command_from_proto(message, self._host))
        except LorajaxError as error:
            outcome = CommandFailed(number=number, error=error)
        except Exception as error:  # noqa: BLE001  # the border of one order: ends it
            _LOG.exception("order %d failed", number)
            words = f"{type(error).__name__}; the log of host {self._host} has it"
            outcome = CommandFailed(number=number, error=EngineFailure(words))
        return outcome_to_proto(outcome, arrival)

    async def close(self) -> None:
        """Hold no connection any more."""
        await self._prepares.close()

    async def _done(self, command: HostCommand, addresses: dict[HostName, str]) -> tuple[Outcome, Arrival]:
        arrival = HERE
        match command:
            case ReadFolder(number=number, path=path):
                return FolderRead(number=number, spec=await self._pool.read_folder(path)), HERE
            case FetchAdapter(adapter=adapter, ticket=ticket):
                peers = tuple((peer, addresses[peer]) for peer in command.peers)
                arrival = await self._fetch(Hint(adapter=adapter, peers=peers, ticket=ticket))
            case DropAdapter(version=version):
                await self._pool.drop(version)
            case PinAdapter(version=version, pin=pin):
                await self._pool.pin(version, is_pinned=pin)
            case DrainHost():
                self._drain()
            case SendAdapter(version=version, target=target, ticket=ticket):
                await self._tickets.send(ticket, target, lambda: self._pieces(version))
        return Done(number=command.number), arrival

    async def _fetch(self, hint: Hint) -> Arrival:
        """By a collective where the order has a ticket, else, and where that fails, by the pool's own ways."""
        if hint.ticket is None:
            return await self._pool.fetch(hint)
        source, address = hint.peers[0]
        started_s = time.monotonic()
        try:
            buffer = await self._tickets.receive(hint.ticket, source, partial(self._prepares.ask, address))
            adapter = await asyncio.to_thread(from_bytes, buffer, hint.adapter.version)
            await self._pool.take(hint, adapter)
        except LorajaxError as error:
            _LOG.warning("ticket %d from host %s: %s; it comes as a stream", hint.ticket, source, error)
            return await self._pool.fetch(hint)
        seconds = time.monotonic() - started_s
        _LOG.info("adapter %s came by collective in %.3f s", hint.adapter.version[:12], seconds)
        return Arrival(way="collective", num_bytes=adapter.spec.num_bytes, seconds=seconds)

    async def _pieces(self, version: Version) -> Sequence[memoryview]:
        return await asyncio.to_thread(pieces, await self._pool.export(version))
