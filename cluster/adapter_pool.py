"""The adapter versions of one host in a cluster. Owns: how each comes here, once at a time, and when it is forgotten.

Does not: decide which should be here (the coordinator does), keep arrays (the engine does), or know requests.
In a cluster the names of a host's catalogue are versions.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from weakref import WeakValueDictionary

from checkpoints import roots
from cluster.catalogue import Entry
from cluster.control_wire import HERE, Arrival, Hint, hint_from_bytes
from cluster.seams import Parts, WorkerConfig
from cluster.view import Adapter
from cluster.worker_adapters import Adapters
from lorajax.adapter_pages import HostAdapter
from lorajax.errors import AdapterError, BadRequest, CorruptAdapter, LorajaxError, Unavailable, UnknownAdapter
from lorajax.spec import ROWS_PER_PAGE, AdapterSpec, Level, ModelSpec, Version

_LOG = logging.getLogger(__name__)
MAX_FETCHES = 4
"""Adapters on their way here at once: each takes its whole size in host memory."""
MAX_ORDERED = 2
"""Of these, those that only the coordinator wants: requests that wait for theirs overtake."""

type Pull = Callable[[str, Adapter, Callable[[], bool]], Awaitable[HostAdapter]]
"""Brings an adapter from the host at an address, gently while the last does not say that somebody waits for it.

Raises LorajaxError.
"""


class AdapterPool:
    """Which versions this host has, or is bringing.

    Invariant: a version is fetched once at a time, however many ask; what changes one version happens in turn.
    Owner: the event loop.
    """

    def __init__(
        self, config: WorkerConfig, parts: Parts, adapters: Adapters, pull: Pull, on_change: Callable[[], None]
    ) -> None:
        """Fill the catalogue of `parts` by way of `adapters`; `on_change` hears of every change."""
        self._model = config.model
        self._roots = config.adapter_roots
        self._parts = parts
        self._adapters = adapters
        self._pull = pull
        self._on_change = on_change
        self._fetches: dict[Version, asyncio.Task[Arrival]] = {}
        self._awaited: set[Version] = set()
        """Of those, what requests wait for."""
        self._turns: WeakValueDictionary[Version, asyncio.Lock] = WeakValueDictionary()
        self._fetching = asyncio.Semaphore(MAX_FETCHES)
        self._ordered = asyncio.Semaphore(MAX_ORDERED)

    def copies(self) -> dict[Version, Level]:
        """Every version that requests can name here, and where it is."""
        levels = self._parts.engine.stats().residency
        known = (entry.spec.version for entry in self._parts.catalogue.entries() if entry.name == entry.spec.version)
        return {version: levels.get(version, Level.STORE) for version in known}

    async def bring(self, names: Iterable[str], hints: Iterable[bytes]) -> float:
        """As `seams.Member.bring`: what a request needs comes here while it waits."""
        started_s, catalogue = time.monotonic(), self._parts.catalogue
        wanted = {hint.adapter.version: hint for hint in map(hint_from_bytes, hints)}
        waited_s = 0.0
        # Again where the coordinator had one dropped in that very moment.
        while missing := [wanted[Version(name)] for name in names if name in wanted and name not in catalogue]:
            await asyncio.gather(*(self.ensure(hint) for hint in missing))
            waited_s = time.monotonic() - started_s
        return waited_s

    async def fetch(self, hint: Hint) -> Arrival:
        """As `ensure`, for nobody who waits: after what requests need."""
        async with self._ordered:
            return await self._shared(hint)

    async def ensure(self, hint: Hint) -> Arrival:
        """Have an adapter in this host's memory, and nameable; who leaves early does not stop it for others.

        Raises: Unavailable where no peer gave it and its store cannot be read here; AdapterError if it cannot be
        served.
        """
        self._awaited.add(hint.adapter.version)
        return await self._shared(hint)

    async def _shared(self, hint: Hint) -> Arrival:
        version = hint.adapter.version
        if (fetch := self._fetches.get(version)) is None:
            fetch = self._fetches[version] = asyncio.create_task(self._fetch(hint))
            fetch.add_done_callback(lambda task: self._fetched(version, task))
        return await asyncio.shield(fetch)

    async def take(self, hint: Hint, adapter: HostAdapter) -> None:
        """Keep an adapter that has come by itself. Raises: CorruptAdapter if it is not the hint's."""
        _check(adapter, hint.adapter, self._model)
        async with self._turn(hint.adapter.version):
            await self._put(adapter, await self._source(hint.adapter))
        self._on_change()

    def _fetched(self, version: Version, fetch: asyncio.Task[Arrival]) -> None:
        del self._fetches[version]
        self._awaited.discard(version)
        if not fetch.cancelled() and fetch.exception() is None and fetch.result() != HERE:
            self._on_change()

    async def _fetch(self, hint: Hint) -> Arrival:
        version, started_s = hint.adapter.version, time.monotonic()
        async with self._turn(version):
            if self._has(version):
                return HERE
            async with self._fetching:
                adapter, way = await self._read(hint)
                await self._put(adapter, await self._source(hint.adapter))
        num_bytes = adapter.spec.num_bytes if way else 0
        arrival = Arrival(way=way, num_bytes=num_bytes, seconds=time.monotonic() - started_s)
        _LOG.info("adapter %s came by %s in %.3f s", version[:12], way or "itself", arrival.seconds)
        return arrival

    def _has(self, version: Version) -> bool:
        level = self._parts.engine.stats().residency.get(version, Level.STORE)
        return version in self._parts.catalogue and level is not Level.STORE

    async def _read(self, hint: Hint) -> tuple[HostAdapter, str]:
        """The adapter and its way: requests that finish on a dropped one may still hold it here.

        The store is not touched before the peers were asked: it may be far, or gone.
        """
        if (kept := self._parts.engine.export(hint.adapter.version)) is not None:
            return kept, ""
        refusals = []
        for host, address in hint.peers:
            try:
                adapter = await self._pull(address, hint.adapter, lambda: hint.adapter.version in self._awaited)
                _check(adapter, hint.adapter, self._model)
            except LorajaxError as error:
                refusals.append(f"host {host}: {error}")
                _LOG.warning("adapter %s did not come from host %s: %s", hint.adapter.version[:12], host, error)
            else:
                return adapter, "stream"
        return await self._stored(hint.adapter, refusals), "store"

    async def _stored(self, adapter: Adapter, refusals: list[str]) -> HostAdapter:
        """The last way. Raises AdapterError if what is there is wrong, Unavailable if nothing is; tells them all."""
        source = await self._source(adapter)
        try:
            if source is not None:
                return await self._adapters.read(source, adapter.version)
            kind: type[LorajaxError] = Unavailable
            refusals.append(f"store: {adapter.path!r} is no folder below an adapter root of this host")
        except LorajaxError as error:
            kind = type(error) if isinstance(error, AdapterError) else Unavailable
            refusals.append(f"store: {error}")
        raise kind(f"adapter {adapter.version} cannot be had; {'; '.join(refusals)}")

    async def _source(self, adapter: Adapter) -> Path | None:
        """The adapter's store, if this host can see it."""
        try:
            return await asyncio.to_thread(roots.resolve, adapter.path, self._roots)
        except BadRequest:
            return None

    async def read_folder(self, path: str) -> AdapterSpec:
        """Read a folder below an adapter root, and keep what it holds. Raises: BadRequest, AdapterError, Overloaded."""
        folder = await asyncio.to_thread(roots.resolve, path, self._roots)
        adapter = await self._adapters.read(folder)
        async with self._turn(adapter.spec.version):
            await self._put(adapter, folder)
        self._on_change()
        return adapter.spec

    async def drop(self, version: Version) -> None:
        """Let no more requests name a version, and forget it once those that use it have ended."""
        async with self._turn(version):
            if version in self._parts.catalogue:
                await self._adapters.unload(version, force=True)
        self._on_change()

    async def pin(self, version: Version, *, is_pinned: bool) -> None:
        """Keep a version on the device, or let it go. Raises: UnknownAdapter; UnsupportedAdapter without room."""
        async with self._turn(version):
            await self._adapters.pin(version, is_pinned=is_pinned)

    async def export(self, version: Version) -> HostAdapter:
        """As `seams.Export`: from memory, or where only the device has it, from the store."""
        if (adapter := self._parts.engine.export(version)) is not None:
            return adapter
        source = self._parts.catalogue.entry(version).source if version in self._parts.catalogue else None
        if source is None:
            raise UnknownAdapter(f"adapter {version} is not in this host's memory")
        return await self._adapters.read(source, version)

    async def _put(self, adapter: HostAdapter, source: Path | None) -> None:
        entry = Entry(name=adapter.spec.version, spec=adapter.spec, source=source, is_pinned=False)
        await self._adapters.put(entry, adapter)

    def _turn(self, version: Version) -> asyncio.Lock:
        """Held by whoever changes the version; first come, first served."""
        return self._turns.setdefault(version, asyncio.Lock())


def _check(adapter: HostAdapter, wanted: Adapter, model: ModelSpec) -> None:
    """Raise CorruptAdapter unless a peer's pages are what the device can take."""
    spec = adapter.spec
    rows = (model.num_layers, spec.num_pages, ROWS_PER_PAGE)
    shapes = {target: tuple((*rows, width) for width in model.widths(target)) for target in spec.targets}
    got = {target: (adapter.a[target].shape, adapter.b[target].shape) for target in spec.targets}
    if (spec.rank, spec.num_bytes) != (wanted.rank, wanted.num_bytes) or got != shapes:
        raise CorruptAdapter(f"rank {spec.rank} and {spec.num_bytes} bytes do not fit; is it of another base model?")
