"""HTTP over loopback: adapters, metrics, health, and how a host with HTTP starts and leaves."""

import asyncio
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from cluster.worker import Worker, serve
from tests.cluster.http_rig import FRONT, ask, complete, get, http_serving, leave, opened, post, submitted
from tests.cluster.rig import answer, config, on_loop, parts, request
from tests.fakes import ByteTokenizer, EchoEngine, write_adapter


@on_loop
async def test_models_lists_the_base_and_the_adapters(tmp_path):
    async with http_serving(tmp_path) as rig:
        await rig.load("sql")
        body = (await get(rig, "/v1/models")).json
    cards = [(card["id"], card["object"], card["root"], card["parent"]) for card in body["data"]]
    assert cards == [("tiny", "model", "tiny", None), ("sql", "model", str(tmp_path / "sql"), "tiny")]
    assert (body["object"], body["data"][0]["max_model_len"]) == ("list", 64)


@on_loop
async def test_adapter_is_loaded_replaced_and_unloaded(tmp_path):
    async with http_serving(tmp_path) as rig:
        for name in ("one", "two"):
            write_adapter(tmp_path / name, name)
        load = lambda path, **body: post(rig, "/v1/load_lora_adapter", lora_name="sql", lora_path=path, **body)
        replies = [await load("one"), await load("two"), await load("two", load_inplace=True)]
        replies.append(await post(rig, "/v1/unload_lora_adapter", lora_name="sql", lora_int_id=None))
        replies.append(await complete(rig, model="sql"))
    assert [reply.status for reply in replies] == [200, 409, 200, 200, 404]
    assert replies[0].data == b"Success: LoRA adapter 'sql' added successfully."


@on_loop
async def test_adapter_in_use_is_unloaded_only_by_force(tmp_path):
    async with http_serving(tmp_path, is_paced=True) as rig:
        await rig.load("sql")
        _, writer = await opened(rig, model="sql")
        await submitted(rig)
        kept = await post(rig, "/v1/unload_lora_adapter", lora_name="sql")
        gone = await post(rig, "/v1/unload_lora_adapter", lora_name="sql", force=True)
        await leave(writer)
    assert (kept.status, kept.error["code"], gone.status) == (412, "failed_precondition", 200)


@on_loop
async def test_metrics_count_both_protocols(tmp_path):
    async with http_serving(tmp_path) as rig:
        await complete(rig)
        await answer(rig.inference.Generate(request()))
        reply = await get(rig, "/metrics")
    lines = reply.data.decode().splitlines()
    assert reply.headers["content-type"].startswith("text/plain; version=")
    for method in ("HTTP/v1/completions", "Inference/Generate"):
        assert f'lorajax:requests_total{{code="OK",method="{method}"}} 1.0' in lines
    assert 'lorajax:tokens_total{kind="completion"} 8.0' in lines


@on_loop
async def test_health_follows_the_host(tmp_path):
    async with http_serving(tmp_path, is_open=False) as rig:
        seen = [await get(rig, "/health")]
        await rig.worker.open()
        seen.append(await get(rig, "/health"))
        rig.worker.drain()
        seen.append(await get(rig, "/health"))
    assert [reply.status for reply in seen] == [503, 200, 503]
    assert seen[0].headers["retry-after"] == "1"


@on_loop
async def test_head_is_get_without_a_body(tmp_path):
    async with http_serving(tmp_path) as rig:
        reply = await ask(rig, "HEAD", "/health")
    assert (reply.status, reply.data) == (200, b"")


@on_loop
async def test_draining_host_refuses_and_finishes_what_runs(tmp_path):
    async with http_serving(tmp_path, is_paced=True) as rig:
        running = asyncio.create_task(complete(rig, stream=True))
        await submitted(rig)
        rig.worker.drain()
        leaving = asyncio.create_task(rig.worker.run())
        refused = await complete(rig)
        for _ in range(4):
            rig.engine.step()
        await leaving
        assert (await running).events[-1]["choices"][0]["finish_reason"] == "length"
    assert (refused.status, refused.error["code"]) == (503, "unavailable")


def start(root, **options):
    """A `serve` task with HTTP, its engine's calls, and the future addresses of its READY."""
    ready, calls = asyncio.get_running_loop().create_future(), asyncio.Queue()
    own = parts(EchoEngine(is_paced=True, on_call=calls.put_nowait), ByteTokenizer(), CollectorRegistry())
    return asyncio.create_task(serve(config(root, **options), own, _nothing, ready.set_result, FRONT)), calls, ready


async def _nothing(worker):
    pass


@on_loop
async def test_signal_ends_streams_that_outlast_the_drain_with_an_error(tmp_path):
    task, calls, ready = start(tmp_path, drain_s=0.05)

    running = asyncio.create_task(complete(SimpleNamespace(addresses=await ready), stream=True))
    await calls.get()
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    reply = await running
    assert (reply.status, reply.error["code"]) == (503, "unavailable")


LAUNCH = "import sys; sys.modules['uvicorn'] = None; import cluster.launch; cluster.launch._make_front({http!r})"


@pytest.mark.parametrize(("http", "last_line"), [(None, ""), ("127.0.0.1:0", "pip install 'lorajax[http]'")])
def test_web_server_is_needed_only_where_http_is_asked_for(http, last_line):
    ran = subprocess.run([sys.executable, "-c", LAUNCH.format(http=http)], capture_output=True, text=True, check=False)
    assert ran.stderr.strip().endswith(last_line)
    assert (ran.returncode == 0) is (http is None)


@on_loop
async def test_taken_address_names_the_flag_to_change(tmp_path):
    async with http_serving(tmp_path) as rig:
        taken = lambda *arguments: FRONT.func(rig.addresses["http"], *arguments)
        other = Worker(config(tmp_path), parts(EchoEngine(), ByteTokenizer(), CollectorRegistry()), taken)
        with pytest.raises(ValueError, match="--http"):
            await other.start()
        await other.stop()
