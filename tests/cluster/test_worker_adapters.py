"""Adapters over loopback: loading, replacing, unloading and pinning, also while requests run."""

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry

from cluster import serving_pb2 as pb
from cluster.admission import Admission
from cluster.worker_adapters import Adapters
from tests.cluster.rig import answer, code, config, on_loop, parts, refusal, request, serving
from tests.fakes import write_adapter


@on_loop
async def test_loaded_adapter_is_described_and_answers(tmp_path):
    async with serving(tmp_path) as rig:
        info = await rig.load("sql", pin=True)
        _, _, final = await answer(rig.inference.Generate(request(adapters=["sql"])))
        base, _, _ = await answer(rig.inference.Generate(request()))
    assert (info.name, info.rank, info.pinned, info.bytes > 0, len(info.version)) == ("sql", 8, True, True, 64)
    assert [(place.host, place.level) for place in info.residency] == [("h0", "device")]
    assert list(final.adapter_versions) == [info.version]
    assert base


@on_loop
async def test_list_is_sorted_by_name(tmp_path):
    async with serving(tmp_path) as rig:
        for name in ("b", "a", "c"):
            await rig.load(name)
        listed = await rig.adapters.List(pb.ListAdaptersRequest())
    assert [info.name for info in listed.adapters] == ["a", "b", "c"]


@on_loop
async def test_loading_the_same_content_again_changes_nothing(tmp_path):
    async with serving(tmp_path) as rig:
        first = await rig.load("sql", "one", pin=True)
        assert await rig.load("sql", "one") == first


@on_loop
async def test_taken_name_is_refused_without_replace_and_keeps_its_content(tmp_path):
    async with serving(tmp_path) as rig:
        first = await rig.load("sql", "one")
        got = await refusal(rig.load("sql", "two"))
        listed = await rig.adapters.List(pb.ListAdaptersRequest())
    assert got.code == "ALREADY_EXISTS"
    assert "replace" in got.message
    assert list(listed.adapters) == [first]


@on_loop
async def test_replacing_leaves_running_requests_on_their_version(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        old = await rig.load("sql", "one")
        running = asyncio.create_task(answer(rig.inference.Generate(request(request_id="r1", adapters=["sql"]))))
        await rig.called("submit", "r1")
        rig.engine.step()
        new = await rig.load("sql", "two", replace=True)
        later = asyncio.create_task(answer(rig.inference.Generate(request(request_id="r2", adapters=["sql"]))))
        await rig.called("submit", "r2")
        for _ in range(4):
            rig.engine.step()
        old_text, _, old_final = await running
        new_text, _, new_final = await later
        await rig.called("remove", old.version)
    assert (list(old_final.adapter_versions), list(new_final.adapter_versions)) == ([old.version], [new.version])
    assert old_text != new_text
    assert list(rig.engine.adapters) == [new.version]


@on_loop
async def test_version_that_went_before_its_turn_is_forgotten_in_silence(tmp_path, caplog):
    async with serving(tmp_path) as rig:
        gone = (await rig.load("sql")).version
        await rig.adapters.Unload(pb.UnloadAdapterRequest(name="sql"))
        adapters = Adapters(config(tmp_path), parts(rig.engine, rig.tokenizer, CollectorRegistry()), Admission(1))
        adapters.forget([gone])
        await adapters.settled()
    assert not caplog.records


@on_loop
async def test_adapter_in_use_is_not_unloaded(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        await rig.load("sql")
        stream = rig.inference.Generate(request(request_id="r1", adapters=["sql"]))
        await rig.called("submit", "r1")
        got = await refusal(rig.adapters.Unload(pb.UnloadAdapterRequest(name="sql")))
        stream.cancel()
    assert got.code == "FAILED_PRECONDITION"
    assert "force" in got.message


@on_loop
async def test_forced_unload_hides_the_name_and_lets_running_requests_finish(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        version = (await rig.load("sql")).version
        running = asyncio.create_task(answer(rig.inference.Generate(request(request_id="r1", adapters=["sql"]))))
        await rig.called("submit", "r1")
        reply = await rig.adapters.Unload(pb.UnloadAdapterRequest(name="sql", force=True))
        got = await refusal(rig.inference.Generate(request(adapters=["sql"])))
        assert list(rig.engine.adapters) == [version]
        for _ in range(4):
            rig.engine.step()
        _, _, final = await running
        await rig.called("remove", version)
    assert (reply.num_running, got.code, final.finish_reason) == (1, "NOT_FOUND", "length")
    assert not rig.engine.adapters


@on_loop
async def test_unload_after_much_traffic_takes_the_adapter_from_the_engine(tmp_path):
    async with serving(tmp_path) as rig:
        await rig.load("sql")
        await asyncio.gather(*(answer(rig.inference.Generate(request(adapters=["sql"]))) for _ in range(20)))
        reply = await rig.adapters.Unload(pb.UnloadAdapterRequest(name="sql"))
        assert (reply.num_running, rig.engine.adapters) == (0, {})


@on_loop
async def test_unloading_one_of_two_names_keeps_the_version(tmp_path):
    async with serving(tmp_path) as rig:
        for name in ("a", "b"):
            await rig.load(name, "same", pin=name == "a")
        await rig.adapters.Unload(pb.UnloadAdapterRequest(name="a"))
        assert [pinned for _, pinned in rig.engine.adapters.values()] == [False]
        await answer(rig.inference.Generate(request(adapters=["b"])))


@on_loop
async def test_pin_is_on_where_absent_and_goes_off_again(tmp_path):
    async with serving(tmp_path) as rig:
        await rig.load("sql")
        on = await rig.adapters.Pin(pb.PinAdapterRequest(name="sql"))
        off = await rig.adapters.Pin(pb.PinAdapterRequest(name="sql", pin=False))
    assert (on.pinned, on.residency[0].level) == (True, "device")
    assert (off.pinned, off.residency[0].level) == (False, "host")


@pytest.mark.parametrize("method", ["Unload", "Pin"])
@on_loop
async def test_changing_an_unknown_adapter_is_not_found(tmp_path, method):
    async with serving(tmp_path) as rig:
        message = {"Unload": pb.UnloadAdapterRequest, "Pin": pb.PinAdapterRequest}[method](name="sql")
        got = await refusal(getattr(rig.adapters, method)(message))
    assert got.code == "NOT_FOUND"


@pytest.mark.parametrize("path", ["../../etc", "/etc", "link", "", "a/../../etc", "sql\0", "x" * 10_000])
@on_loop
async def test_path_outside_the_roots_is_refused_and_names_the_flag(tmp_path, path):
    (tmp_path / "link").symlink_to("/etc")
    async with serving(tmp_path) as rig:
        got = await refusal(rig.adapters.Load(pb.LoadAdapterRequest(name="sql", path=path)))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", "path")
    assert "--adapter-root" in got.message


@pytest.mark.parametrize("name", ["", "../sql", "sqｌ", "-sql", "x" * 129, "a b", "sql\n"])
@on_loop
async def test_name_that_no_adapter_can_have_is_refused(tmp_path, name):
    async with serving(tmp_path) as rig:
        write_adapter(tmp_path / "sql")
        got = await refusal(rig.adapters.Load(pb.LoadAdapterRequest(name=name, path="sql")))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", "name")


@on_loop
async def test_folder_that_is_no_adapter_is_refused_and_the_engine_lives_on(tmp_path):
    async with serving(tmp_path) as rig:
        (tmp_path / "empty").mkdir()
        got = await refusal(rig.adapters.Load(pb.LoadAdapterRequest(name="sql", path="empty")))
        await answer(rig.inference.Generate(request()))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", "path")


@on_loop
async def test_load_whose_caller_leaves_half_way_is_finished(tmp_path):
    async with serving(tmp_path) as rig:
        write_adapter(tmp_path / "sql")
        rig.engine.is_between_steps.clear()
        call = rig.adapters.Load(pb.LoadAdapterRequest(name="sql", path="sql"))
        _, version = await rig.calls.get()
        call.cancel()
        await answer(rig.inference.Generate(request()))  # the engine's step holds up nobody else
        rig.engine.is_between_steps.set()
        await code(rig.adapters.Unload(pb.UnloadAdapterRequest(name="other")))  # a change after that one
        listed = await rig.adapters.List(pb.ListAdaptersRequest())
    assert [info.version for info in listed.adapters] == list(rig.engine.adapters) == [version]


@pytest.mark.parametrize("seed", range(3))
@on_loop
async def test_loads_unloads_and_requests_may_race(tmp_path, seed):
    draw, codes = random.Random(seed), set()

    async def client(rig):
        for _ in range(15):
            name = draw.choice("ab")
            match draw.randrange(4):
                case 0:
                    call = rig.adapters.Load(
                        pb.LoadAdapterRequest(name=name, path=draw.choice(("one", "two")), replace=True)
                    )
                case 1:
                    call = rig.adapters.Unload(pb.UnloadAdapterRequest(name=name, force=draw.random() < 0.5))
                case _:
                    call = rig.inference.Generate(request(adapters=[name]))
            codes.add(await code(call))

    async with serving(tmp_path) as rig:
        for content in ("one", "two"):
            write_adapter(tmp_path / content, content)
        await asyncio.gather(*(client(rig) for _ in range(8)))
        assert codes <= {"OK", "NOT_FOUND", "FAILED_PRECONDITION"}
        for info in (await rig.adapters.List(pb.ListAdaptersRequest())).adapters:
            await rig.adapters.Unload(pb.UnloadAdapterRequest(name=info.name))
    assert not rig.engine.adapters
