"""Real children that are started, restarted, drained and killed."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.restarts import Pace
from cluster.supervisor import Child
from tests.cluster.rig import on_loop
from tests.cluster.supervised import DEAF, TIMEOUT_S, child, pid_of, supervised

pytestmark = pytest.mark.multihost
ROOT = Path(__file__).resolve().parents[2]
FAIL = "import sys; print('what went wrong'); sys.exit(int(sys.argv[1]))"


async def ended(task):
    return await asyncio.wait_for(asyncio.shield(task), TIMEOUT_S)


@on_loop
async def test_output_is_kept_and_only_progress_and_alarms_are_shown(tmp_path):
    script = "print('PROGRESS one', flush=True); print('two', flush=True); print('x WARNING three', flush=True)"
    async with supervised(tmp_path, child("talker", script)) as (_, ear, _):
        await ear.hear("talker has drained; starting it anew")
    shown = [line for line in ear.said if line.startswith("talker |")]
    assert shown[:2] == ["talker | PROGRESS one", "talker | x WARNING three"]
    assert (tmp_path / "talker.log").read_text().startswith("PROGRESS one\ntwo\nx WARNING three\n")


@on_loop
async def test_killed_child_is_told_in_words_and_starts_again(tmp_path):
    async with supervised(tmp_path, child("host")) as (_, ear, _):
        first = pid_of(await ear.hear("host | PROGRESS up"))
        os.kill(first, signal.SIGKILL)
        await ear.hear("host was killed: out of memory, or kill -9 (exit code 137); starting it again in 0.01 s")
        assert pid_of(await ear.hear("host | PROGRESS up")) != first


@on_loop
async def test_child_that_keeps_failing_ends_everything_and_is_named(tmp_path):
    async with supervised(tmp_path, child("good"), child("bad", FAIL, 7)) as (_, ear, task):
        good = pid_of(await ear.hear("good | PROGRESS up"))
        assert await ended(task) == 1
    (words,) = (line for line in ear.said if line.startswith("giving up"))
    assert words.startswith("giving up: bad failed (exit code 7) 5 times in a row, each soon after its start; its log")
    assert "bad | what went wrong" in ear.said
    with pytest.raises(ProcessLookupError):
        os.kill(good, 0)


@on_loop
async def test_child_that_keeps_failing_once_the_cluster_was_ready_takes_nobody_along(tmp_path):
    async with supervised(tmp_path, child("good"), child("bad", FAIL, 7)) as (supervisor, ear, task):
        supervisor.ready()
        words = await ear.hear("ERROR: bad failed (exit code 7) 6 times in a row, each soon after its start")
        assert ("starting it again in 0.05 s" in words, task.done()) == (True, False)


@on_loop
async def test_child_that_has_lived_before_is_not_given_up(tmp_path):
    pace = Pace(first_s=0.01, most_s=0.05, fast_s=1.0)
    flag = tmp_path / "flag"
    script = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); p.exists() or (p.touch(), time.sleep(1)); 1 / 0"
    async with supervised(tmp_path, child("host", script, flag), pace=pace) as (_, ear, task):
        await ear.hear("ERROR: host failed (exit code 1) 5 times in a row")
        assert not task.done()


@on_loop
async def test_host_that_has_drained_has_not_failed(tmp_path):
    async with supervised(tmp_path, child("host", "pass")) as (_, ear, task):
        for _ in range(6):
            await ear.hear("host has drained; starting it anew")
        assert not task.done()


@on_loop
async def test_child_that_cannot_be_started_has_failed_and_the_launcher_goes_on(tmp_path):
    impossible = Child(name="bad", command=(sys.executable, "x" * 2**22))  # longer than the kernel takes
    async with supervised(tmp_path, impossible) as (_, ear, task):
        await ear.hear("bad could not be started (exit code 127); starting it again")
        assert await ended(task) == 1
    assert "bad | cannot be started: Argument list too long" in ear.said


@on_loop
async def test_child_that_could_never_start_as_configured_is_not_tried_again(tmp_path):
    async with supervised(tmp_path, child("bad", FAIL, 2)) as (_, ear, task):
        assert await ended(task) == 1
    (words,) = (line for line in ear.said if line.startswith("giving up"))
    assert words.startswith("giving up: bad could not start as it was configured (exit code 2); its log is")


@on_loop
async def test_once_the_cluster_was_ready_what_cannot_be_configured_takes_nobody_along_either(tmp_path):
    async with supervised(tmp_path, child("good"), child("bad", FAIL, 2)) as (supervisor, ear, task):
        supervisor.ready()
        await ear.hear("bad could not start as it was configured (exit code 2); starting it again in 0.01 s")
        assert not task.done()


@on_loop
async def test_stop_drains_the_last_stage_first_and_exits_0(tmp_path):
    children = child("front", stage=2), child("middle", stage=1), child("back", stage=0)
    async with supervised(tmp_path, *children) as (supervisor, ear, task):
        await ear.hear_all("front | PROGRESS up", "middle | PROGRESS up", "back | PROGRESS up")
        supervisor.stop()
        assert await ended(task) == 0
    assert [line for line in ear.said if "bye" in line] == [
        "front | PROGRESS bye",
        "middle | PROGRESS bye",
        "back | PROGRESS bye",
    ]


@on_loop
async def test_second_stop_is_a_hard_one(tmp_path):
    async with supervised(tmp_path, child("deaf", DEAF)) as (supervisor, ear, task):
        await ear.hear("up")
        supervisor.stop()
        await ear.hear("deaf | PROGRESS no")
        supervisor.stop()
        assert await ended(task) == 130


@on_loop
async def test_child_that_ends_badly_while_draining_is_a_failure(tmp_path):
    script = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print('PROGRESS up', flush=True)"
    async with supervised(tmp_path, child("host", f"{script}\nwhile True: signal.pause()")) as (supervisor, ear, task):
        await ear.hear("up")
        supervisor.stop()
        assert await ended(task) == 1
    assert "host failed (exit code 3) while ending" in ear.said


@on_loop
async def test_first_signal_after_giving_up_still_drains(tmp_path):
    async with supervised(tmp_path, child("bad", FAIL, 2), child("deaf", DEAF)) as (supervisor, ear, _):
        await ear.hear("giving up")
        supervisor.stop()
        assert ear.said[-1] == "draining; once more to stop at once"


@on_loop
async def test_child_that_does_not_end_is_killed_and_that_is_a_failure(tmp_path):
    async with supervised(tmp_path, child("deaf", DEAF), drain_s=0.2) as (supervisor, ear, task):
        await ear.hear("up")
        supervisor.stop()
        assert await ended(task) == 1
    assert "killing deaf: still running 0.2 s after SIGTERM" in ear.said


@on_loop
async def test_stop_while_a_child_waits_for_its_restart_ends_at_once(tmp_path):
    async with supervised(tmp_path, child("bad", FAIL, 7), pace=Pace(first_s=3600)) as (supervisor, ear, task):
        await ear.hear("starting it again in 30 s")
        supervisor.stop()
        assert await ended(task) == 0


@on_loop
async def test_what_a_child_needs_takes_it_along_and_starts_first(tmp_path):
    children = child("host", stage=1, needs=["rendezvous"]), child("rendezvous")
    async with supervised(tmp_path, *children) as (_, ear, _):
        first, meeting = map(pid_of, await ear.hear_all("host | PROGRESS up", "rendezvous | PROGRESS up"))
        os.kill(meeting, signal.SIGKILL)
        await ear.hear("rendezvous was killed")
        assert pid_of(await ear.hear("host | PROGRESS up")) != first
    blamed = [line for line in ear.said if "starting it again" in line]
    assert [line.split()[0] for line in blamed] == ["rendezvous"]


@on_loop
async def test_processes_of_a_replica_start_again_together(tmp_path):
    mates = child("leader", needs=["follower"]), child("follower", needs=["leader"])
    async with supervised(tmp_path, *mates, child("other")) as (_, ear, _):
        leader, follower, _ = map(pid_of, await ear.hear_all("leader | PROG", "follower | PROG", "other | PROG"))
        os.kill(follower, signal.SIGKILL)
        again = list(map(pid_of, await ear.hear_all("leader | PROGRESS up", "follower | PROGRESS up")))
        assert (again[0] != leader, again[1] != follower) == (True, True)
    assert len([line for line in ear.said if "other | PROGRESS up" in line]) == 1


@on_loop
async def test_child_that_dies_just_before_what_it_needs_is_not_to_blame(tmp_path):
    children = child("host", stage=1, needs=["rendezvous"]), child("rendezvous")
    pace = Pace(first_s=1.0, max_fast=2)
    async with supervised(tmp_path, *children, pace=pace) as (_, ear, _):
        host, meeting = map(pid_of, await ear.hear_all("host | PROGRESS up", "rendezvous | PROGRESS up"))
        os.kill(host, signal.SIGABRT)
        await ear.hear("host aborted")
        os.kill(meeting, signal.SIGKILL)
        os.kill(pid_of(await ear.hear("host | PROGRESS up")), signal.SIGABRT)
        assert "starting it again in 1 s" in await ear.hear("host aborted")


# A launcher in small; tells when its child is up, and can be killed without warning.
LAUNCHER = """
import asyncio, os, sys
from pathlib import Path
from cluster.supervisor import Supervisor
from tests.cluster.supervised import child
script = "import os, signal, sys; fifo = open(sys.argv[1], 'w'); print('PROGRESS up', flush=True); signal.pause()"
say = lambda line: print(line, flush=True)
asyncio.run(Supervisor([child("host", script, sys.argv[1])], Path(sys.argv[2]), say, environment=os.environ).run())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a process that is gone")
def test_launcher_killed_without_warning_leaves_no_child(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = (sys.executable, "-c", LAUNCHER, fifo, tmp_path)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as launcher, fifo.open() as held:
        assert launcher.stdout.readline() == "host | PROGRESS up\n"
        launcher.kill()
        assert held.read() == ""  # returns when the last writer is gone
