"""A step that never returns is noticed, and nothing else is taken for one."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from cluster.watchdog import NUM_LOOKS, Watchdog


class Looking:
    """Steps in each of which the watchdog looks so many times."""

    sizes = None

    def __init__(self, num_looks):
        self.num_looks = num_looks
        self.look = None

    def write(self, writes, adapters):
        for _ in range(self.num_looks):
            self.look()

    def run(self, plan):
        self.write((), {})
        if plan is None:
            raise RuntimeError("broken")
        return {"r": plan}


def watching(num_looks):
    steps, hung = Looking(num_looks), []
    made = Watchdog(steps, lambda: hung.append(True))
    steps.look = made.look
    return made, hung


@pytest.mark.parametrize("call", [lambda made: made.run("plan"), lambda made: made.write((), {})])
def test_step_that_is_seen_for_too_long_hangs(call):
    made, hung = watching(NUM_LOOKS + 1)
    call(made)
    assert hung == [True]


def test_steps_that_follow_one_another_do_not_hang():
    made, hung = watching(NUM_LOOKS)
    for _ in range(3):
        made.run("plan")
    assert not hung


def test_engine_without_work_does_not_hang():
    made, hung = watching(1)
    made.run("plan")
    for _ in range(3 * NUM_LOOKS):
        made.look()
    assert not hung


def test_step_that_raises_has_ended():
    made, hung = watching(1)
    with pytest.raises(RuntimeError, match="broken"):
        made.run(None)
    for _ in range(3 * NUM_LOOKS):
        made.look()
    assert not hung


def test_answers_are_those_of_the_steps():
    made = Watchdog(SimpleNamespace(sizes="sizes", run=lambda plan: {"r": plan}), lambda: None)
    assert (made.sizes, made.run("plan")) == ("sizes", {"r": "plan"})


_HANGS = """
import threading
from types import SimpleNamespace
from cluster import watchdog
watchdog.LOOK_S, watchdog.NUM_LOOKS = 0.01, 3
never = threading.Event()
made = watchdog.Watchdog(SimpleNamespace(sizes=None, run=lambda plan: never.wait()), watchdog.end_process)
made.start()
made.run(None)
"""


def test_process_whose_step_hangs_ends_and_says_where():
    ended = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "a step has not returned" in ended.stderr
    assert "in wait" in ended.stderr
