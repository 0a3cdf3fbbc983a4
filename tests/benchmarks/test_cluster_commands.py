"""The benchmarks of the cluster's parts run at toy size, and leave the JSON that they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.multihost
ROOT = Path(__file__).parents[2]


def result(out, name, *flags):
    command = (sys.executable, "-m", "benchmarks", name, "--out", str(out), *flags)
    subprocess.run(command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, check=True, timeout=60, capture_output=True)
    return json.loads((out / f"{name}.json").read_text())


def test_front_door(tmp_path):
    core = str(min(os.sched_getaffinity(0)))
    found = result(tmp_path, "front-door", "--cores", core, "--rounds", "1", "--messages", "5", "--pairs", "5")
    assert all(claim["ours_spread"]["median"] > 0 for claim in found["claims"])


def test_transfer(tmp_path):
    tiny.write_model(tmp_path / "model", "llama", seed=1)
    found = result(tmp_path, "transfer", "--model", str(tmp_path / "model"), "--rounds", "1", "--moves", "0")
    assert len(found["claims"]) == 9
