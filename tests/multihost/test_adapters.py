"""Adapters come and go while the cluster serves, and a running stream keeps the version that it began with."""

import contextlib

import grpc
import pytest

from cluster import serving_pb2 as pb
from tests.cluster.rig import on_loop, refusal
from tests.multihost.rig import LONG, asking, until

pytestmark = pytest.mark.multihost


@contextlib.asynccontextmanager
async def loaded(asks, name="later", path="later"):
    """An adapter that is there while the block runs."""
    info = await load(asks, name, path)
    try:
        yield info
    finally:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await asks.adapters.Unload(pb.UnloadAdapterRequest(name=name, force=True))


def load(asks, name, path, **options):
    return asks.adapters.Load(pb.LoadAdapterRequest(name=name, path=path, **options))


@on_loop
async def test_an_adapter_loaded_at_run_time_answers(cluster, expected, alone):
    async with asking(cluster) as asks, loaded(asks) as info:
        stream = await asks.ask("later")
    assert (info.rank, info.version) == (32, alone.adapters["later"].spec.version)
    assert stream.tokens == expected("later")


@on_loop
async def test_replacing_lets_a_stream_finish_on_its_version(cluster, expected):
    async with asking(cluster) as asks, loaded(asks):
        old = asks.begin("later", max_tokens=LONG)
        await old.has_begun.wait()
        info = await load(asks, "later", "other", replace=True)
        new = await asks.ask("later")
        is_during = not old.task.done()
        await old.task
    assert (is_during, new.tokens, tuple(new.final.adapter_versions)) == (True, expected("other"), (info.version,))
    assert old.tokens == expected("later", max_tokens=LONG)


@on_loop
async def test_a_name_is_not_replaced_by_accident(cluster):
    async with asking(cluster) as asks, loaded(asks):
        assert (await refusal(load(asks, "later", "other"))).code == "ALREADY_EXISTS"


@on_loop
async def test_an_adapter_in_use_is_unloaded_by_force_alone_and_its_stream_finishes(cluster, expected):
    async with asking(cluster) as asks, loaded(asks):
        stream = asks.begin("later", max_tokens=2 * LONG)
        await until(lambda: is_used(asks))
        refused = await refusal(asks.adapters.Unload(pb.UnloadAdapterRequest(name="later")))
        await asks.adapters.Unload(pb.UnloadAdapterRequest(name="later", force=True))
        gone = await asks.ask("later")
        is_during = not stream.task.done()
        await stream.task
    assert (refused.code, gone.code, is_during) == ("FAILED_PRECONDITION", "NOT_FOUND", True)
    assert stream.tokens == expected("later", max_tokens=2 * LONG)


async def is_used(asks):
    """Whether the coordinator has heard of a request: it does so by beats."""
    reply = await asks.cluster.Status(pb.StatusRequest())
    return any(host.num_running for host in reply.hosts)


@on_loop
async def test_folders_outside_the_roots_are_refused(cluster, folder):
    async with asking(cluster) as asks:
        found = await refusal(load(asks, "sly", str(folder / "model")))
    assert found.code == "INVALID_ARGUMENT"


@on_loop
async def test_a_base_request_names_no_adapter(cluster, expected):
    async with asking(cluster) as asks:
        stream = await asks.ask()
    assert (stream.tokens, list(stream.final.adapter_versions)) == (expected(), [])
