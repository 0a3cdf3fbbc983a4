"""How adapters come to a host: once, from the first that can give them, and only below its roots."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from cluster.adapter_pool import MAX_ORDERED, AdapterPool
from cluster.admission import Admission
from cluster.control_wire import HERE, Hint, fetch_hint
from cluster.worker_adapters import Adapters
from lorajax.adapter_pages import LowRank, pack
from lorajax.errors import BadRequest, CorruptAdapter, Unavailable, UnknownAdapter, UnsupportedAdapter
from lorajax.spec import Level
from tests.cluster.host_rig import MODEL, made, read_pages
from tests.cluster.rig import config, on_loop, parts
from tests.fakes import ByteTokenizer, EchoEngine, write_adapter


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


@pytest.fixture
def rig(tmp_path):
    with pooling(tmp_path) as rig:
        yield rig


@pytest.fixture
def elsewhere(tmp_path):
    """An adapter outside the roots: only peers can give it."""
    return made(tmp_path / "elsewhere")


def future():
    return asyncio.get_running_loop().create_future()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


@on_loop
async def test_adapter_comes_from_the_first_peer_that_gives_it(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=Unavailable("gone"), b=CorruptAdapter("broken"), c=pages, d=pages)
    arrival = await rig.pool.ensure(rig.hint(known, "a", "b", "c", "d"))
    assert (rig.pulled, arrival.way, arrival.num_bytes) == (["a", "b", "c"], "stream", known.num_bytes)
    assert rig.pool.copies() == {known.version: Level.HOST}


@on_loop
async def test_adapter_comes_from_its_store_where_no_peer_gives_it(rig):
    _, known = made(rig.root / "sql")
    rig.peers.update(a=Unavailable("gone"))
    arrival = await rig.pool.ensure(rig.hint(known, "a"))
    assert (arrival.way, rig.pool.copies()) == ("store", {known.version: Level.HOST})


@on_loop
async def test_path_of_the_store_may_be_relative_to_a_root(rig):
    _, known = made(rig.root / "sql")
    assert (await rig.pool.ensure(rig.hint(replace(known, path="sql")))).way == "store"


@on_loop
async def test_store_is_not_touched_where_a_peer_gives_the_adapter_first(rig):
    pages, known = made(rig.root / "sql")
    rig.peers.update(a=future())
    fetching = asyncio.create_task(rig.pool.ensure(rig.hint(known, "a")))
    await rig.pulls.get()
    (rig.root / "sql").rename(rig.root / "gone")
    rig.peers["a"].set_result(pages)
    assert (await fetching).way == "stream"


@on_loop
async def test_what_only_the_coordinator_wants_comes_gently_until_a_request_waits_for_it(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=future())
    ordered = asyncio.create_task(rig.pool.fetch(rig.hint(known, "a")))
    await rig.pulls.get()
    assert not rig.urgent[0]()
    asked = asyncio.create_task(rig.pool.ensure(rig.hint(known, "a")))
    await settle()
    assert rig.urgent[0]()
    rig.peers["a"].set_result(pages)
    await asyncio.gather(ordered, asked)


@on_loop
async def test_who_asks_at_the_same_time_shares_one_fetch(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=future(), b=pages)
    asking = [asyncio.create_task(rig.pool.ensure(rig.hint(known, peer))) for peer in "ab"]
    await settle()
    rig.peers["a"].set_result(pages)
    assert {arrival.way for arrival in await asyncio.gather(*asking)} == {"stream"}
    assert rig.pulled == ["a"]


@on_loop
async def test_fetch_goes_on_for_others_when_one_leaves(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=future())
    leaver, stayer = (asyncio.create_task(rig.pool.ensure(rig.hint(known, "a"))) for _ in range(2))
    await settle()
    leaver.cancel()
    await settle()
    rig.peers["a"].set_result(pages)
    assert (await stayer).way == "stream"


@on_loop
async def test_adapter_that_is_here_is_not_fetched(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=pages)
    await rig.pool.ensure(rig.hint(known, "a"))
    assert await rig.pool.ensure(rig.hint(known, "a")) == HERE
    assert (rig.pulled, rig.changes) == (["a"], [1])


@on_loop
async def test_adapter_that_was_evicted_from_memory_is_fetched_again(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=pages)
    await rig.pool.ensure(rig.hint(known, "a"))
    rig.engine.evicted[known.version] = Level.STORE
    assert (await rig.pool.ensure(rig.hint(known, "a"))).way == "stream"


@on_loop
async def test_failure_says_all_that_was_tried(rig, elsewhere):
    _, known = elsewhere
    rig.peers.update(a=Unavailable("gone"))
    with pytest.raises(Unavailable, match=r"host ha: gone; store: .* is no folder below an adapter root"):
        await rig.pool.ensure(rig.hint(known, "a"))


@on_loop
async def test_failure_is_not_remembered(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=Unavailable("gone"))
    with pytest.raises(Unavailable):
        await rig.pool.ensure(rig.hint(known, "a"))
    rig.peers.update(a=pages)
    assert (await rig.pool.ensure(rig.hint(known, "a"))).way == "stream"


@on_loop
async def test_store_that_has_changed_is_corrupt(rig):
    _, known = made(rig.root / "sql")
    write_adapter(rig.root / "sql", "other weights")
    with pytest.raises(CorruptAdapter, match=f"{known.version} cannot be had; store: "):
        await rig.pool.ensure(rig.hint(known))


@on_loop
async def test_folder_outside_the_roots_is_not_read(rig, elsewhere):
    _, known = elsewhere
    with pytest.raises(Unavailable, match="below an adapter root"):
        await rig.pool.ensure(rig.hint(known))


@on_loop
async def test_pages_of_another_model_are_refused(rig, elsewhere):
    _, known = elsewhere
    wide = replace(MODEL, hidden_size=16)
    update = LowRank(a=np.ones((8, 16), np.float32), b=np.ones((8, 8), np.float32))
    pages = pack({(0, "q_proj"): update}, model=wide, version=known.version)
    rig.peers.update(a=pages)
    with pytest.raises(Unavailable, match="another base model"):
        await rig.pool.ensure(rig.hint(replace(known, num_bytes=pages.spec.num_bytes), "a"))


@on_loop
async def test_adapter_that_does_not_fit_the_device_is_refused_as_such(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=pages)
    rig.engine.misfit = UnsupportedAdapter("too large")
    with pytest.raises(UnsupportedAdapter, match="too large"):
        await rig.pool.ensure(rig.hint(known, "a"))
    assert rig.pool.copies() == {}


@pytest.mark.parametrize(("place", "has_source"), [("store/sql", True), ("elsewhere", False)])
@on_loop
async def test_pulled_adapter_has_a_store_only_where_this_host_sees_it(tmp_path, place, has_source):
    with pooling(tmp_path) as rig:
        pages, known = made(tmp_path / place)
        rig.peers.update(a=pages)
        await rig.pool.ensure(rig.hint(known, "a"))
    assert (rig.parts.catalogue.entry(known.version).source is not None) == has_source


@on_loop
async def test_few_adapters_come_at_once_and_requests_overtake_what_was_ordered(rig, tmp_path):
    adapters = [made(tmp_path / str(n), "x" * n) for n in range(1, 6)]
    rig.peers.update({str(n): future() for n in range(5)})
    hints = [rig.hint(known, str(n)) for n, (_, known) in enumerate(adapters)]
    ordered = [asyncio.create_task(rig.pool.fetch(hint)) for hint in hints[:4]]
    for _ in range(MAX_ORDERED):
        await rig.pulls.get()
    asked = asyncio.create_task(rig.pool.ensure(hints[4]))
    assert await rig.pulls.get() == "4"
    assert set(rig.pulled) == {"0", "1", "4"}
    for n, (pages, _) in enumerate(adapters):
        rig.peers[str(n)].set_result(pages)
    await asyncio.gather(*ordered, asked)
    assert len(rig.pool.copies()) == 5


@on_loop
async def test_read_folder_says_what_it_holds_and_keeps_it(rig):
    pages, known = made(rig.root / "sql")
    assert await rig.pool.read_folder("sql") == pages.spec
    assert rig.pool.copies() == {known.version: Level.HOST}


@on_loop
async def test_read_folder_outside_the_roots_is_refused(rig, elsewhere):
    with pytest.raises(BadRequest, match="outside every --adapter-root"):
        await rig.pool.read_folder(elsewhere[1].path)


@on_loop
async def test_dropped_adapter_is_gone_and_dropping_again_is_no_error(rig):
    _, known = made(rig.root / "sql")
    await rig.pool.read_folder("sql")
    for _ in range(2):
        await rig.pool.drop(known.version)
    assert (rig.pool.copies(), rig.engine.adapters) == ({}, {})


@on_loop
async def test_drop_waits_for_the_fetch_before_it(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=future())
    fetching = asyncio.create_task(rig.pool.ensure(rig.hint(known, "a")))
    await settle()
    dropping = asyncio.create_task(rig.pool.drop(known.version))
    await settle()
    rig.peers["a"].set_result(pages)
    await asyncio.gather(fetching, dropping)
    assert rig.pool.copies() == {}


@on_loop
async def test_adapter_is_forgotten_only_when_its_last_request_has_ended(rig):
    _, known = made(rig.root / "sql")
    await rig.pool.read_folder("sql")
    versions = rig.parts.catalogue.acquire([known.version])
    await rig.pool.drop(known.version)
    assert (rig.pool.copies(), list(rig.engine.adapters)) == ({}, [known.version])
    assert rig.parts.catalogue.release(versions) == (known.version,)


@on_loop
async def test_dropped_adapter_that_requests_still_hold_comes_back_by_itself(rig, elsewhere):
    pages, known = elsewhere
    rig.peers.update(a=pages)
    await rig.pool.ensure(rig.hint(known, "a"))
    rig.engine.in_use[known.version] = None
    await rig.pool.drop(known.version)
    assert (await rig.pool.ensure(rig.hint(known, "a"))).way == ""
    assert (rig.pulled, rig.pool.copies()) == (["a"], {known.version: Level.HOST})


@on_loop
async def test_pinned_adapter_is_on_the_device(rig):
    _, known = made(rig.root / "sql")
    await rig.pool.read_folder("sql")
    await rig.pool.pin(known.version, is_pinned=True)
    assert rig.pool.copies() == {known.version: Level.DEVICE}


@on_loop
async def test_pinning_what_is_not_here_is_refused(rig):
    with pytest.raises(UnknownAdapter):
        await rig.pool.pin("ab" * 32, is_pinned=True)


@pytest.mark.parametrize("is_evicted", [False, True])
@on_loop
async def test_export_gives_the_adapter_from_memory_or_store(rig, is_evicted):
    pages, known = made(rig.root / "sql")
    await rig.pool.read_folder("sql")
    if is_evicted:
        rig.engine.evicted[known.version] = Level.DEVICE
    assert (await rig.pool.export(known.version)).spec == pages.spec


@on_loop
async def test_export_of_what_is_not_here_is_refused(rig):
    with pytest.raises(UnknownAdapter, match="not in this host's memory"):
        await rig.pool.export("ab" * 32)


@on_loop
async def test_request_brings_only_what_it_names(rig, tmp_path):
    (_, wanted), (_, other) = (made(rig.root / name, name) for name in ("wanted", "other"))
    hints = [fetch_hint(known, ()) for known in (wanted, other)]
    assert await rig.pool.bring([wanted.version], hints) > 0
    assert list(rig.pool.copies()) == [wanted.version]


@on_loop
async def test_request_whose_adapters_are_here_does_not_wait(rig):
    _, known = made(rig.root / "sql")
    await rig.pool.read_folder("sql")
    assert await rig.pool.bring([known.version], [fetch_hint(known, ())]) == 0


@on_loop
async def test_name_without_a_hint_is_left_to_the_catalogue(rig):
    assert await rig.pool.bring(["ab" * 32], []) == 0


@on_loop
async def test_names_that_are_no_versions_are_not_told_to_the_cluster(rig):
    made(rig.root / "sql")
    own = rig.parts.catalogue
    await rig.pool.read_folder("sql")
    (entry,) = own.entries()
    own.put(replace(entry, name="sql"))
    assert list(rig.pool.copies()) == [entry.spec.version]
