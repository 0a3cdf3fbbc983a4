"""How adapters come to a host: once, from the first that can give them, and only below its roots."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from cluster.adapter_pool import MAX_ORDERED
from cluster.control_wire import HERE
from lorajax.adapter_pages import LowRank, pack
from lorajax.errors import CorruptAdapter, Unavailable, UnsupportedAdapter
from lorajax.spec import Level
from tests.cluster.host_rig import MODEL, made
from tests.cluster.pool_rig import future, pooling, settle
from tests.cluster.rig import on_loop
from tests.fakes import write_adapter


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
