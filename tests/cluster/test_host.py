"""A host of a cluster answers by adapter versions, and brings those that it lacks while their requests wait."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from checkpoints import tokenizer
from cluster import control_pb2 as pb
from cluster import serving_pb2
from cluster.config import HostConfig, ServeConfig
from cluster.control_wire import FETCH_KEY, fetch_hint
from cluster.serving_pb2_grpc import InferenceStub
from lorajax.chat import NoChatTemplate
from lorajax.config import EngineConfig
from lorajax.text import Tokenizer
from tests import tiny, tiny_text
from tests.cluster.host_rig import coordinating, host, made, member
from tests.cluster.rig import answer, code, on_loop, refusal, request, serving
from tests.fakes import TIMING

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
NO_PORT = 1
SIZES = {"kv_bytes": 4 << 20, "adapter_bytes": 2 << 20, "host_adapter_bytes": 8 << 20}
FEW_SHAPES = {"max_sequences": 2, "max_batch_tokens": 8, "interleaved_tokens": 6, "dtype": "float32"}


@contextlib.asynccontextmanager
async def two_hosts(root, **options):
    """A host that holds an adapter, another one that lacks it and cannot see its store, and the hint that helps it."""
    _, known = made(root / "one" / "sql")
    async with host(root / "one", NO_PORT) as one, host(root / "two", NO_PORT, **options) as two:
        await one.adapters.Load(serving_pb2.LoadAdapterRequest(name=known.version, path="sql"))
        yield one, two, known, (FETCH_KEY, fetch_hint(known, (("h1", one.target),)))


@on_loop
async def test_request_waits_for_the_adapter_that_its_host_lacks(tmp_path):
    async with two_hosts(tmp_path) as (one, two, known, hint):
        asked = request(adapters=[known.version])
        text, _, final = await answer(two.inference.Generate(asked, metadata=(hint,)))
        same, _, _ = await answer(one.inference.Generate(asked))
    assert (text, list(final.adapter_versions)) == (same, [known.version])
    timing = final.timing
    waited_s = timing.adapter_wait_s - TIMING.adapter_wait_s
    assert waited_s > 0
    assert (timing.first_token_s, timing.total_s) == (TIMING.first_token_s + waited_s, TIMING.total_s + waited_s)


@on_loop
async def test_request_whose_adapter_is_here_has_the_engines_own_times(tmp_path):
    async with two_hosts(tmp_path) as (one, _, known, hint):
        _, _, final = await answer(one.inference.Generate(request(adapters=[known.version]), metadata=(hint,)))
    assert final.timing.adapter_wait_s == TIMING.adapter_wait_s


@on_loop
async def test_adapter_that_nobody_gives_fails_its_request_alone(tmp_path):
    async with two_hosts(tmp_path) as (one, two, known, hint):
        await one.adapters.Unload(serving_pb2.UnloadAdapterRequest(name=known.version))
        got = await refusal(two.inference.Generate(request(adapters=[known.version]), metadata=(hint,)))
        await answer(two.inference.Generate(request()))
    assert (got.code, got.retry_s) == ("UNAVAILABLE", 1.0)
    assert "host h1: NOT_FOUND" in got.message


@on_loop
async def test_version_without_a_hint_is_unknown(tmp_path):
    async with two_hosts(tmp_path) as (_, two, known, _):
        got = await refusal(two.inference.Generate(request(adapters=[known.version])))
    assert got.code == "NOT_FOUND"


@on_loop
async def test_bytes_that_are_no_hint_are_refused(tmp_path):
    async with host(tmp_path, NO_PORT) as rig:
        got = await refusal(rig.inference.Generate(request(), metadata=((FETCH_KEY, b"\xff"),)))
    assert got.code == "INVALID_ARGUMENT"


@on_loop
async def test_hints_are_not_followed_outside_a_cluster(tmp_path):
    _, known = made(tmp_path / "sql")
    async with serving(tmp_path) as rig:
        asked = request(adapters=[known.version])
        got = await refusal(rig.inference.Generate(asked, metadata=((FETCH_KEY, fetch_hint(known, ())),)))
    assert got.code == "NOT_FOUND"


@on_loop
async def test_deadline_bounds_the_wait_and_the_adapter_comes_all_the_same(tmp_path):
    async with two_hosts(tmp_path) as (_, two, known, hint):
        two.engine.is_between_steps.clear()
        asked = request(adapters=[known.version])
        late = two.inference.Generate(asked, metadata=(hint,), timeout=0.3)
        await two.called("add", known.version)
        assert await code(late) == "DEADLINE_EXCEEDED"
        two.engine.is_between_steps.set()
        text, _, _ = await answer(two.inference.Generate(asked, metadata=(hint,)))
    assert len(text) == 4


@on_loop
async def test_running_request_finishes_on_an_adapter_that_is_dropped(tmp_path):
    _, known = made(tmp_path / "sql")
    async with member(tmp_path, is_paced=True) as (rig, line):
        line.order(1, read=pb.ReadFolder(path="sql"))
        await line.outcome()
        running = asyncio.create_task(
            answer(rig.inference.Generate(request(request_id="r1", adapters=[known.version])))
        )
        await rig.called("submit", "r1")
        line.order(2, drop=pb.DropAdapter(version=known.version))
        await line.outcome()
        assert known.version in rig.engine.adapters
        for _ in range(4):
            rig.engine.step()
        _, tokens, _ = await running
        await rig.called("remove", known.version)
    assert len(tokens) == 4


def test_host_with_adapters_of_its_own_is_refused():
    serve = ServeConfig(model="m", engine=EngineConfig(**SIZES), adapters=(("sql", "sql"),))
    with pytest.raises(ValueError, match="register them with the coordinator"):
        HostConfig(name="h0", coordinator="127.0.0.1:1", fingerprint="f", serve=serve)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and an adapter of it."""
    folder = tmp_path_factory.mktemp("files")
    tiny.write_model(folder / "model", "llama", seed=1)
    tokenizer.save(folder / "model", Tokenizer(tiny_text.byte_level()), NoChatTemplate())
    tiny.write_adapter(folder / "sql", "llama", 2, tiny.ADAPTERS["rslora8"])
    return folder


@contextlib.contextmanager
def process(config, cache, log):
    """`run_host` in a process of its own, told to go in the end."""
    code = f"""
from cluster.config import HostConfig, ServeConfig
from cluster.launch import run_host
from lorajax.config import EngineConfig
raise SystemExit(run_host({config!r}))
"""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = (sys.executable, "-c", code)
    with log.open("w") as err, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=err, stderr=err) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(TIMEOUT_S)


@on_loop
async def test_host_process_joins_reads_answers_and_leaves(files, pytestconfig, tmp_path):
    shutil.copytree(files / "sql", tmp_path / "preload" / "sql")
    serve = ServeConfig(
        model=str(files / "model"),
        engine=EngineConfig(**SIZES, **FEW_SHAPES),
        grpc="127.0.0.1:0",
        adapter_roots=(str(tmp_path / "preload" / "sql"),),
        kernels="xla",
    )
    async with coordinating() as (coordinator, port):
        config = HostConfig(name="h3", coordinator=f"127.0.0.1:{port}", fingerprint="f", serve=serve)
        with process(config, pytestconfig.cache.mkdir("serve"), tmp_path / "log") as running:
            line = await coordinator.line()
            hello = await line.hello()
            await line.beat(lambda beat: beat.state == "serving")
            line.order(1, read=pb.ReadFolder(path=str(tmp_path / "preload" / "sql")))
            read = await line.outcome()
            async with grpc.aio.insecure_channel(hello.address) as channel:
                asked = request(token_ids=serving_pb2.TokenIds(ids=[5, 9]), adapters=[read.spec.version])
                _, _, final = await answer(InferenceStub(channel).Generate(asked))
            running.send_signal(signal.SIGTERM)
            await line.has_ended.wait()
            assert running.wait(TIMEOUT_S) == 0
    assert (hello.host, hello.beat.state, final.host) == ("h3", "starting", "h3")
    assert (read.number, list(final.adapter_versions)) == (1, [read.spec.version])
