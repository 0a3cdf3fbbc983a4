"""A host's life: starting, health, status, drain and signals."""

import asyncio
import os
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from cluster import serving_pb2 as pb
from cluster.serving_pb2_grpc import InferenceStub
from cluster.worker import SERVICES, Worker, serve
from tests.cluster.rig import answer, config, on_loop, parts, refusal, request, serving
from tests.fakes import ByteTokenizer, EchoEngine, model_spec

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(rig, service=""):
    stub = health_pb2_grpc.HealthStub(rig.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@on_loop
async def test_host_that_is_not_ready_says_so(tmp_path):
    async with serving(tmp_path, is_open=False) as rig:
        assert await health_of(rig) == NOT_SERVING
        got = await refusal(rig.inference.Generate(request()))
    assert (got.code, got.retry_s) == ("UNAVAILABLE", 1.0)
    assert "starting" in got.message


@on_loop
async def test_model_whose_longest_prompt_no_message_can_hold_is_served(tmp_path):
    async with serving(tmp_path, model=model_spec(max_model_len=2**30)) as rig:
        assert await health_of(rig) == SERVING


@pytest.mark.parametrize("service", ["", *SERVICES])
@on_loop
async def test_ready_host_is_healthy_by_the_name_of_each_service(tmp_path, service):
    async with serving(tmp_path) as rig:
        assert await health_of(rig, service) == SERVING


@on_loop
async def test_reflection_lists_every_service(tmp_path):
    async with serving(tmp_path) as rig:
        stub = reflection_pb2_grpc.ServerReflectionStub(rig.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        call.cancel()
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed


@on_loop
async def test_status_tells_what_the_host_is_and_holds(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        await rig.load("sql", pin=True)
        stream = rig.inference.Generate(request(request_id="r1", adapters=["sql"]))
        await rig.called("submit", "r1")
        rig.engine.step()
        await stream.read()
        (host,) = (await rig.cluster.Status(pb.StatusRequest())).hosts
        stream.cancel()
    assert (host.name, host.model, host.version, host.state) == ("h0", "tiny", "0.0", "serving")
    (adapter,) = host.adapters
    assert (adapter.name, adapter.rank, adapter.pinned, adapter.level, adapter.num_requests) == (
        "sql",
        8,
        True,
        "device",
        1,
    )
    assert (host.kv_pages.used, host.kv_pages.total, host.adapter_pages.used, host.adapter_pages.total) == (
        10,
        100,
        1,
        1000,
    )
    assert (host.num_running, host.num_waiting) == (1, 0)
    assert host.tokens_per_s == 0.1
    assert host.uptime_s > 0


@pytest.mark.parametrize(
    ("method", "message"), [("Rebalance", pb.RebalanceRequest()), ("WatchPlacement", pb.WatchPlacementRequest())]
)
@on_loop
async def test_calls_that_need_a_cluster_say_how_to_start_one(tmp_path, method, message):
    async with serving(tmp_path) as rig:
        got = await refusal(getattr(rig.cluster, method)(message))
    assert got.code == "UNIMPLEMENTED"
    assert "lorajax launch" in got.message


@on_loop
async def test_draining_host_refuses_new_requests_and_finishes_the_running(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        running = asyncio.create_task(answer(rig.inference.Generate(request(request_id="r1"))))
        await rig.called("submit", "r1")
        leaving = asyncio.create_task(rig.worker.run())
        reply = await rig.cluster.Drain(pb.DrainRequest(host="h0"))
        got = await refusal(rig.inference.Generate(request()))
        assert await health_of(rig) == NOT_SERVING
        assert not leaving.done()
        for _ in range(4):
            rig.engine.step()
        _, tokens, _ = await running
        await leaving
    assert (reply.host, reply.num_running, len(tokens)) == ("h0", 1, 4)
    assert (got.code, got.retry_s) == ("UNAVAILABLE", 1.0)


@on_loop
async def test_requests_that_outlast_the_drain_end_as_unavailable(tmp_path):
    async with serving(tmp_path, is_paced=True, drain_s=0.05) as rig:
        running = asyncio.create_task(refusal(rig.inference.Generate(request(request_id="r1"))))
        await rig.called("submit", "r1")
        rig.worker.drain()
        await rig.worker.run()
        got = await running
        await rig.called("cancel", "r1")
    assert got.code == "UNAVAILABLE"
    assert "going" in got.message


@on_loop
async def test_drain_of_another_host_is_refused(tmp_path):
    async with serving(tmp_path) as rig:
        got = await refusal(rig.cluster.Drain(pb.DrainRequest(host="h7")))
        await answer(rig.inference.Generate(request()))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", "host")


@on_loop
async def test_taken_address_names_the_flag_to_change(tmp_path):
    async with serving(tmp_path) as rig:
        other = Worker(config(tmp_path, address=rig.target), parts(EchoEngine(), ByteTokenizer(), CollectorRegistry()))
        with pytest.raises(ValueError, match="--grpc"):
            await other.start()
        await other.stop()


def start(root, prepare, *, is_paced=False):
    """A `serve` task, its engine, and the future addresses of its READY."""
    loop = asyncio.get_running_loop()
    ready, calls = loop.create_future(), asyncio.Queue()
    engine = EchoEngine(is_paced=is_paced, on_call=calls.put_nowait)
    own = parts(engine, ByteTokenizer(), CollectorRegistry())
    task = asyncio.create_task(serve(config(root), own, prepare, ready.set_result))
    return task, calls, ready


async def nothing(worker):
    pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@on_loop
async def test_signal_lets_an_idle_host_return(tmp_path, number):
    task, _, ready = start(tmp_path, nothing)
    await ready
    os.kill(os.getpid(), number)
    await task


@on_loop
async def test_second_signal_cuts_what_still_runs(tmp_path):
    task, calls, ready = start(tmp_path, nothing, is_paced=True)
    async with grpc.aio.insecure_channel((await ready)["grpc"]) as channel:
        running = asyncio.create_task(refusal(InferenceStub(channel).Generate(request())))
        await calls.get()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        await task
        assert (await running).code == "UNAVAILABLE"


@on_loop
async def test_signal_while_preparing_ends_the_preparation(tmp_path):
    begun = asyncio.Event()

    async def endless(worker):
        begun.set()
        await asyncio.Event().wait()

    task, _, ready = start(tmp_path, endless)
    await begun.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    assert not ready.done()


@on_loop
async def test_failed_preparation_ends_serve_with_its_error(tmp_path):
    async def broken(worker):
        raise ValueError("no such model")

    task, _, ready = start(tmp_path, broken)
    with pytest.raises(ValueError, match="no such model"):
        await task
    assert not ready.done()


@on_loop
async def test_watched_health_follows_the_host(tmp_path):
    async with serving(tmp_path, is_open=False) as rig:
        watch = health_pb2_grpc.HealthStub(rig.channel).Watch(health_pb2.HealthCheckRequest())
        seen = [(await watch.read()).status]
        await rig.worker.open()
        seen.append((await watch.read()).status)
        rig.worker.drain()
        await rig.worker.run()
        seen.append((await watch.read()).status)
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
