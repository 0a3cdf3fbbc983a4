"""The work that every engine gets is the same bits each time and fits its model; peers answer line by line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from benchmarks.peers import fixtures
from tests import tiny

ECHO = """
import time
from benchmarks.peers import protocol

def load(work):
    print("a log line on stdout")
    return lambda names: ([[len(name or "")] * work.new_tokens for name in names], [time.perf_counter()] * 2)

protocol.serve(load, protocol.parse(None))
"""
"""A peer whose tokens are the lengths of the adapters' names."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny.write_model(tmp_path / "model", "llama", seed=0)
    return tmp_path / "model"


def answers(tmp_path, lines):
    prompts = tmp_path / "prompts.json"
    prompts.write_text("[[1, 2], [3]]")
    command = [sys.executable, "-c", ECHO, "--model", str(tmp_path), "--prompts", str(prompts), "--batch", "4"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_same_seed_writes_the_same_adapters(model, tmp_path):
    once = fixtures.write_adapters(model, tmp_path / "once", ranks=(8,))["r8"]
    again = fixtures.write_adapters(model, tmp_path / "again", ranks=(8,))["r8"]
    assert (once / "adapter_model.safetensors").read_bytes() == (again / "adapter_model.safetensors").read_bytes()


def test_adapter_changes_every_linear_layer_of_its_model(model, tmp_path):
    folder = fixtures.write_adapters(model, tmp_path, ranks=(16,))["r16"]
    tensors = load_file(folder / "adapter_model.safetensors")
    changed = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): (
            tensors[name.replace("lora_A", "lora_B")].shape[0],
            tensors[name].shape[1],
        )
        for name in tensors
        if "lora_A" in name
    }
    assert changed == fixtures.linear_shapes(model)
    assert len(changed) == tiny.NUM_LAYERS * len(fixtures.TARGETS)


def test_prompts_repeat_only_after_all_were_used():
    num = len(fixtures.SENTENCES)
    assert len(set(fixtures.prompts(num))) == num
    assert fixtures.prompts(num + 1)[num] == fixtures.prompts(num + 1)[0]


def test_peer_answers_each_line_with_one_measured_batch(tmp_path):
    ready, base, mixed = answers(tmp_path, ["[null]", '["r8", "r128"]'])
    assert ready["ready"]
    assert [row[0] for row in base["first_tokens"]] == [0, 0, 0, 0]
    assert [row[0] for row in mixed["first_tokens"]] == [2, 4, 2, 4]
    assert mixed["tokens_per_s"] > 0
