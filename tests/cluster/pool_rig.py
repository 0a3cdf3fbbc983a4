"""A real adapter pool without sockets: what peers give is what a test says.

Owns: the engine, the peers and the root of the pool. Does not: fetch.
"""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from cluster.adapter_pool import AdapterPool
from cluster.admission import Admission
from cluster.control_wire import Hint
from cluster.worker_adapters import Adapters
from tests.cluster.host_rig import read_pages
from tests.cluster.rig import config, parts
from tests.fakes import ByteTokenizer, EchoEngine


class Engine(EchoEngine):
    """Keeps a removed version while a test says that requests use it, and has none that it says was evicted."""

    def __init__(self):
        super().__init__()
        self.in_use = {}
        self.evicted = {}
        self.misfit = None

    def add_adapter(self, adapter, source, *, pinned):
        if self.misfit is not None:
            raise self.misfit
        super().add_adapter(adapter, source, pinned=pinned)

    def remove_adapter(self, version):
        adapter, _ = self.adapters[version]
        super().remove_adapter(version)
        if version in self.in_use:
            self.in_use[version] = adapter

    def export(self, version):
        return super().export(version) or self.in_use.get(version) if version not in self.evicted else None

    def stats(self):
        stats = super().stats()
        return replace(stats, residency=stats.residency | self.evicted)


@dataclass
class Rig:
    pool: AdapterPool
    engine: Engine
    parts: object
    root: Path
    peers: dict
    """What each address gives: an adapter, an error, or a future of one."""
    pulled: list
    urgent: list
    """Of each pull, what tells whether somebody waits for it."""
    pulls: asyncio.Queue
    """The same, to wait for."""
    changes: list

    def hint(self, known, *peers):
        return Hint(adapter=known, peers=tuple((f"h{peer}", peer) for peer in peers))


@contextlib.contextmanager
def pooling(root: Path):
    """A pool without sockets, whose root is `root / "store"`."""
    engine, peers, pulled, urgent, pulls, changes = Engine(), {}, [], [], asyncio.Queue(), []
    own = parts(engine, ByteTokenizer(), CollectorRegistry(), read_pages)
    settings = config(root / "store")
    (root / "store").mkdir()

    async def pull(address, adapter, is_urgent):
        pulled.append(address)
        urgent.append(is_urgent)
        pulls.put_nowait(address)
        given = peers[address]
        given = await given if isinstance(given, asyncio.Future) else given
        if isinstance(given, Exception):
            raise given
        return given

    pool = AdapterPool(settings, own, Adapters(settings, own, Admission(8)), pull, lambda: changes.append(1))
    yield Rig(pool, engine, own, root / "store", peers, pulled, urgent, pulls, changes)


def future():
    return asyncio.get_running_loop().create_future()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)
