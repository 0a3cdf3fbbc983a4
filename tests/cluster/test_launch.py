"""`lorajax serve` as a process of its own: how it starts, answers and leaves, and how it says which flag is wrong."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from checkpoints import tokenizer
from cluster import device
from cluster.client import Client, ClientError
from cluster.records import AdapterUse, Question
from lorajax.chat import NoChatTemplate
from lorajax.spec import Sampling
from lorajax.text import Tokenizer
from pallas_kernels import ops
from tests import tiny, tiny_text
from tests.cluster.rig import on_loop

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
PROMPT = (5, 9, 17, 33)
FEW_SHAPES = ("--max-sequences", "2", "--max-batch-tokens", "8", "--interleaved-tokens", "6")
MANY_SHAPES = ("--max-sequences", "128", "--max-batch-tokens", "4096")
FLAGS = ("--dtype", "float32", "--kernels", "xla", "--kv-bytes", "4MiB", "--adapter-bytes", "2MiB")


@dataclass
class Server:
    """A server that has said READY."""

    process: subprocess.Popen
    ready: str
    log: Path

    @property
    def target(self):
        return dict(pair.split("=") for pair in self.ready.split()[1:])["grpc"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model whose tokenizer has more tokens than it has rows, and an adapter of it."""
    folder = tmp_path_factory.mktemp("files")
    tiny.write_model(folder / "model", "llama", seed=1)
    tokenizer.save(folder / "model", Tokenizer(tiny_text.byte_level()), NoChatTemplate())
    tiny.write_adapter(folder / "sql", "llama", 2, tiny.ADAPTERS["rslora8"])
    return folder


@pytest.fixture(scope="module")
def cache(pytestconfig):
    """Where servers keep what they compile, from one run of the tests to the next."""
    return pytestconfig.cache.mkdir("serve")


@pytest.fixture(scope="module")
def server(files, cache, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), cache, files) as running:
        yield running


def start(files, cache, *flags, **streams):
    command = (sys.executable, "-m", "lorajax", "serve", "--model", files / "model", "--grpc", "127.0.0.1:0", *FLAGS)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen((*command, *flags), cwd=ROOT, env=environment, text=True, **streams)


@contextlib.contextmanager
def serving(scratch, cache, files):
    """A server with one adapter, which is told to go in the end."""
    log = scratch / "log"
    with (
        log.open("w") as err,
        start(files, cache, *FEW_SHAPES, "--adapter", f"sql={files / 'sql'}", stdout=subprocess.PIPE, stderr=err) as it,
    ):
        try:
            yield Server(it, it.stdout.readline(), log)
        finally:
            it.terminate()
            it.wait(TIMEOUT_S)


def refused(files, cache, *flags):
    """Exit code and last words of a server that cannot start."""
    with start(files, cache, *flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (out, err.count("\n")) == ("", 1), err
    return process.returncode, err


async def generated(server, *adapters, prompt=PROMPT):
    """The ids of a greedy completion."""
    question = Question(
        prompt=prompt,
        sampling=Sampling(max_tokens=12, ignore_eos=True),
        adapters=tuple(AdapterUse(name=name) for name in adapters),
    )
    async with Client(server.target) as client:
        return [piece.id async for piece in client.generate(question) if hasattr(piece, "id")]


def test_ready_line_says_where_and_what(server):
    fields = dict(pair.split("=") for pair in server.ready.split()[1:])
    assert fields.pop("grpc").startswith("127.0.0.1:")
    pid = str(server.process.pid)
    assert fields == {"model": "model", "family": "llama", "adapters": "1", "kernels": "xla", "pid": pid}


@on_loop
async def test_adapter_named_at_the_start_changes_the_answer(server):
    base, adapted = await generated(server), await generated(server, "sql")
    assert (len(base), len(adapted), base == adapted) == (12, 12, False)


@on_loop
async def test_added_token_without_a_row_is_refused_and_the_engine_lives_on(server):
    assert "the tokenizer has " in server.log.read_text()
    with pytest.raises(ClientError, match="outside the model's vocabulary, 0 … 127"):
        await generated(server, prompt="<think>")
    assert len(await generated(server)) == 12


def test_taken_port_is_one_line_that_names_the_flag_and_exit_2(server, files, cache):
    code, words = refused(files, cache, "--grpc", server.target)
    assert (code, "choose another --grpc" in words) == (2, True)


def test_folder_that_is_no_adapter_is_one_line_that_names_the_flag_and_exit_2(files, cache, tmp_path):
    code, words = refused(files, cache, "--adapter", f"sql={tmp_path}")
    assert (code, f"--adapter sql={tmp_path}: adapter_config.json" in words) == (2, True)


def test_folder_that_is_no_model_is_one_line_and_exit_2(cache, tmp_path):
    (tmp_path / "model").mkdir()
    code, words = refused(tmp_path, cache)
    assert (code, "config.json" in words) == (2, True)


@on_loop
async def test_sigterm_lets_a_running_stream_end_and_exits_0(files, cache, tmp_path):
    question = Question(prompt=PROMPT, sampling=Sampling(max_tokens=200, ignore_eos=True))
    with serving(tmp_path, cache, files) as server:
        async with Client(server.target) as client:
            stream = client.generate(question)
            await anext(stream)
            server.process.send_signal(signal.SIGTERM)
            *_, last = [part async for part in stream]
        assert (last.finish_reason, last.num_completion_tokens) == ("length", 200)
        assert server.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_compiling_ends_before_all_is_compiled(files, tmp_path, number):
    with start(files, tmp_path, *MANY_SHAPES, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        log = iter(process.stderr.readline, "")
        first = next(line for line in log if "compiling 1/" in line)
        process.send_signal(number)
        rest = list(log)
        assert (process.wait(TIMEOUT_S), process.stdout.read()) == (0, "")
    num_programs = first.partition("compiling 1/")[2].partition(":")[0]
    assert len(rest) < int(num_programs) // 2


def test_kernels_that_cannot_be_built_fall_back_to_xla_and_leave_nothing_behind(monkeypatch, tmp_path):
    unusable, scratch = tmp_path / "file", tmp_path / "scratch"
    unusable.touch()
    scratch.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(unusable))
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert (device._ops("auto"), list(scratch.iterdir())) == (ops.XLA, [])


def test_kernels_asked_for_by_name_that_cannot_be_built_name_the_flag(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ValueError, match=r"--kernels native: .*; or use --kernels xla"):
        device._ops("native")


def test_cpu_kernels_are_refused_where_jax_does_not_run_on_the_cpu():
    with pytest.raises(NotImplementedError, match="JAX runs on gpu"):
        device._load_native("gpu")


def test_cache_folder_is_ours_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = device._private_folder("kernels")
    assert (folder, folder.stat().st_mode & 0o777) == (tmp_path / "lorajax" / "kernels", 0o700)


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_cache_folder_that_others_can_write_is_not_used(monkeypatch, tmp_path, mode):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "lorajax" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert device._private_folder("kernels") is None


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "highest"), ("bfloat16", None)])
def test_only_float32_is_multiplied_in_full(dtype, precision):
    assert device._matmul_precision(dtype) == precision
