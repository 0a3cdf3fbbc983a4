"""A task that fails, dies or hangs costs its own result and no other."""

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kernels.turns import Child

ROOT = Path(__file__).resolve().parents[3]
TASKS = """
import argparse, os, signal
from benchmarks.kernels.turns import Task, serve

def fails(): raise ValueError("two\\nlines")
def dies(): os.abort()
def hangs(): signal.pause()

tasks = {"fails": fails, "dies": dies, "hangs": hangs, "works": lambda: {"us": 1.0}}
parser = argparse.ArgumentParser()
parser.add_argument("names")
parser.add_argument("--skip")
args = parser.parse_args()
print("a log line on stdout")
serve([Task(name, 1.0, tasks[name]) for name in args.names.split(",")], args.skip.split("|"))
"""


@pytest.fixture
def outcomes(tmp_path):
    """Serve the tasks of these names; what each of them found, in order."""

    def serve(names, within_s=60.0):
        child = Child((sys.executable, "-c", TASKS, names), ROOT, os.environ, tmp_path / "log")
        return list(child.outcomes(time.monotonic() + within_s))

    return serve


def test_tasks_end_in_their_order(outcomes):
    assert [(name, found["us"]) for name, found in outcomes("works")] == [("works", 1.0)]


@pytest.mark.parametrize(
    ("name", "error"), [("fails", "ValueError: two lines"), ("dies", "its process died"), ("hangs", "longer than 1 s")]
)
def test_the_others_go_on(outcomes, name, error):
    (_, failed), (_, works) = outcomes(f"{name},works")
    assert error in failed["error"]
    assert works["us"] == 1.0


def test_nothing_begins_past_the_end(outcomes):
    (_, found), *others = outcomes("works", within_s=-1.0)
    assert (found["error"], others) == ("no time was left", [])


def test_a_process_that_cannot_start_says_so(tmp_path):
    child = Child((sys.executable, "-c", "raise SystemExit('no torch here')"), ROOT, os.environ, tmp_path / "log")
    ((name, found),) = child.outcomes(time.monotonic() + 60.0)
    assert name == "start"
    assert "no torch here" in found["error"]
