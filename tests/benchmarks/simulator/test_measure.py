"""What counts as a step's work, and that the steps benchmark leaves hardware that the simulator can read."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.simulator import presets
from benchmarks.simulator.device import StepWork
from benchmarks.simulator.measure import work_of
from lorajax.plan import Chunk
from lorajax.spec import Request, Sampling, Version
from tests import tiny

ROOT = Path(__file__).parents[3]
RANKS = {Version("a"): 8, Version("b"): 16}


def chunk(start, num_tokens, *versions):
    return Chunk(
        request=Request(
            id="r", prompt=(0,), sampling=Sampling(max_tokens=1), adapters=tuple((one, 1.0) for one in versions)
        ),
        tokens=(0,) * num_tokens,
        start=start,
        kv_pages=(),
        adapter_pages=(),
        output=(),
        num_output=0,
        samples=True,
    )


def test_work_counts_tokens_by_rank_and_kv_of_every_sequence():
    chunks = [chunk(0, 5, "a"), chunk(10, 1, "a"), chunk(20, 1, "b"), chunk(30, 1)]
    found = work_of(chunks, RANKS.__getitem__)
    assert sorted(found.adapter_ranks) == [8, 16]
    assert (found.prefill_tokens, found.decode_sequences) == (5, 3)
    assert (found.prefill_by_rank, found.decode_by_rank) == ({8: 5}, {8: 1, 16: 1, 0: 1})
    assert found.context_tokens == 5 + 11 + 21 + 31
    assert found.attended_pairs == 1 + 2 + 3 + 4 + 5


def test_a_set_of_adapters_has_the_sum_of_their_ranks():
    assert work_of([chunk(0, 1, "a", "b")], RANKS.__getitem__).decode_by_rank == {24: 1}


def test_steps_of_tiny_hosts_side_by_side_become_hardware(tmp_path):
    tiny.write_model(tmp_path / "model", "llama", seed=1)
    sizes = "--max-sequences 8 --max-batch-tokens 64 --interleaved-tokens 56 --kv-bytes 4MiB --adapter-bytes 8MiB"
    flags = "--dtype float32 --hosts 2 --prompt-tokens 8 --new-tokens 8 --trial-s 0.05 --name tiny"
    command = (sys.executable, "-m", "benchmarks", "steps", "--model", str(tmp_path / "model"), "--out", str(tmp_path))
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(
        (*command, *sizes.split(), *flags.split()),
        cwd=ROOT,
        env=environment,
        timeout=100,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "steps-tiny.json").read_text())
    hardware = presets.named("tiny", tmp_path)
    assert facts["steps"] > 100
    assert hardware.limits.config.max_sequences == 8
    assert hardware.step.step_s(StepWork(prefill_tokens=0, decode_sequences=1, context_tokens=0)) > 0
