"""The Adapters service of one host. Owns: in which order catalogue and engine learn of a change. Reads no files."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable
from pathlib import Path

import grpc

from checkpoints import roots
from cluster import serving_pb2, wire
from cluster.admission import Admission
from cluster.calls import check_name
from cluster.catalogue import Entry
from cluster.seams import Parts, WorkerConfig
from lorajax.adapter_pages import HostAdapter
from lorajax.config import EngineStats
from lorajax.errors import LorajaxError, Overloaded, UnknownAdapter
from lorajax.spec import Level, Version

_LOG = logging.getLogger(__name__)
MAX_READS = 2
"""Adapters read from disk at once: each takes its whole size in host memory, twice."""
MAX_LOADS = 32
"""Loads that run or wait; one more is refused as overloaded."""


class Adapters:
    """Answers `lorajax.v1.Adapters`. One per host; runs on the event loop.

    Invariant: a version that the catalogue knows is known to the engine. Changes wait for the engine on another thread,
    so they go one at a time, and each is finished even if its caller leaves half-way.
    """

    def __init__(self, config: WorkerConfig, parts: Parts, admission: Admission) -> None:
        """Serve with these parts."""
        self._config = config
        self._parts = parts
        self._admission = admission
        self._reading = asyncio.Semaphore(MAX_READS)
        self._num_loads = 0
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Entry | None]] = set()

    async def Load(
        self, message: serving_pb2.LoadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.AdapterInfo:
        """Register a folder below an adapter root."""
        entry = await self.load_path(message.name, message.path, replace=message.replace, pin=message.pin)
        return self._info(entry)

    async def load_path(self, name: str, path: str, *, replace: bool = False, pin: bool = False) -> Entry:
        """Register a folder that a caller named: it must lie below an adapter root. Raises what `load` raises."""
        self._admission.require_serving()
        check_name(name)
        folder = await asyncio.to_thread(roots.resolve, path, self._config.adapter_roots)
        return await self.load(name, folder, replace=replace, pin=pin)

    async def load(self, name: str, folder: Path, *, replace: bool = False, pin: bool = False) -> Entry:
        """Register a folder that the operator chose: no root is asked for. Raises what reading and fitting raise."""
        adapter = await self.read(folder)
        entry = Entry(name=name, spec=adapter.spec, source=folder, is_pinned=pin)
        return await self.put(entry, adapter, replace=replace)

    async def read(self, folder: Path, expect: Version | None = None) -> HostAdapter:
        """Read a folder, a few at once. Raises: Overloaded; what `ReadAdapter` raises."""
        if self._num_loads >= MAX_LOADS:
            raise Overloaded(f"{MAX_LOADS} adapters are being loaded; try again")
        self._num_loads += 1
        try:
            async with self._reading:
                return await asyncio.to_thread(self._parts.read_adapter, folder, expect=expect)
        finally:
            self._num_loads -= 1

    async def put(self, entry: Entry, adapter: HostAdapter, *, replace: bool = False) -> Entry:
        """Register an adapter that is in memory. Raises: AdapterExists unless `replace`; what fitting raises."""
        return await asyncio.shield(self._change(self._put(entry, adapter, replace=replace)))

    async def _put(self, entry: Entry, adapter: HostAdapter, *, replace: bool) -> Entry:
        catalogue, version = self._parts.catalogue, adapter.spec.version
        entry = catalogue.proposal(entry, replace=replace)
        is_pinned = entry.is_pinned or catalogue.is_pinned(version)
        # Before any request can name it. It may refuse.
        await asyncio.to_thread(self._parts.engine.add_adapter, adapter, entry.source, pinned=is_pinned)
        old = catalogue.put(entry)
        if old not in (None, version):
            await self._settle(old)
        return entry

    async def Unload(
        self, message: serving_pb2.UnloadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.UnloadAdapterReply:
        """Take a name away; requests that run on it finish."""
        entry = await self.unload(message.name, force=message.force)
        version = entry.spec.version
        return serving_pb2.UnloadAdapterReply(
            name=entry.name, version=version, num_running=self._parts.catalogue.num_uses(version)
        )

    async def unload(self, name: str, *, force: bool = False) -> Entry:
        """Take a name away. Raises: UnknownAdapter; AdapterInUse unless `force`."""
        return await asyncio.shield(self._change(self._remove(name, force=force)))

    async def _remove(self, name: str, *, force: bool) -> Entry:
        entry = self._parts.catalogue.remove(name, force=force)
        await self._settle(entry.spec.version)
        return entry

    async def List(
        self, message: serving_pb2.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.ListAdaptersReply:
        """Every adapter, by name."""
        return serving_pb2.ListAdaptersReply(adapters=[wire.adapter_to_proto(report) for report in self.reports()])

    async def Pin(
        self, message: serving_pb2.PinAdapterRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.AdapterInfo:
        """Keep an adapter on the device, or let it go."""
        is_pinned = message.pin if message.HasField("pin") else True
        return self._info(await self.pin(message.name, is_pinned=is_pinned))

    async def pin(self, name: str, *, is_pinned: bool) -> Entry:
        """Keep an adapter on the device, or let it go. Raises: UnknownAdapter; UnsupportedAdapter without room."""
        return await asyncio.shield(self._change(self._pin(name, is_pinned=is_pinned)))

    async def _pin(self, name: str, *, is_pinned: bool) -> Entry:
        catalogue = self._parts.catalogue
        version = catalogue.entry(name).spec.version
        if is_pinned:  # first: it may refuse
            await asyncio.to_thread(self._parts.engine.pin, version, pinned=True)
        entry = catalogue.pin(name, is_pinned=is_pinned)
        await self._settle(version)
        return entry

    def forget(self, versions: Iterable[Version]) -> None:
        """Take versions that nobody names or uses any more from the engine, soon."""
        for version in versions:
            self._change(self._forget(version))

    async def _forget(self, version: Version) -> None:
        try:
            with contextlib.suppress(UnknownAdapter):  # it came back and went again before our turn
                await self._settle(version)
        except LorajaxError:
            _LOG.exception("adapter %s stays in the engine", version)

    async def settled(self) -> None:
        """Return once every change so far has been carried out."""
        await asyncio.gather(*self._changes, return_exceptions=True)

    def reports(self) -> tuple[wire.AdapterReport, ...]:
        """Every adapter as it is now, by name."""
        stats = self._parts.engine.stats()
        return tuple(self._report(entry, stats) for entry in self._parts.catalogue.entries())

    def _info(self, entry: Entry) -> serving_pb2.AdapterInfo:
        return wire.adapter_to_proto(self._report(entry, self._parts.engine.stats()))

    def _report(self, entry: Entry, stats: EngineStats) -> wire.AdapterReport:
        level = stats.residency.get(entry.spec.version, Level.STORE)
        return wire.AdapterReport(
            name=entry.name,
            spec=entry.spec,
            is_pinned=entry.is_pinned,
            levels=((self._config.host, level),),
            num_requests=self._parts.catalogue.num_uses(entry.spec.version),
        )

    def _change[T: Entry | None](self, change: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Carry a change out after those before it."""

        async def in_turn() -> T:
            async with self._changing:
                return await change

        task = asyncio.create_task(in_turn())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return task

    async def _settle(self, version: Version) -> None:
        """Tell the engine what is left of a version after one of its names or users has gone."""
        engine, catalogue = self._parts.engine, self._parts.catalogue
        if catalogue.is_known(version):
            await asyncio.to_thread(engine.pin, version, pinned=catalogue.is_pinned(version))
        else:
            await asyncio.to_thread(engine.remove_adapter, version)
