"""What a host holds: read, dropped, pinned, exported and brought for a request."""

import asyncio
from dataclasses import replace

import pytest

from cluster.control_wire import fetch_hint
from lorajax.errors import BadRequest, UnknownAdapter
from lorajax.spec import Level
from tests.cluster.host_rig import made
from tests.cluster.pool_rig import future, settle
from tests.cluster.rig import on_loop


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
