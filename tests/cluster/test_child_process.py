"""One child: what it prints, how it ends, what it leaves behind."""

import os
import signal
import sys
from pathlib import Path

import pytest

from cluster.child_process import ChildProcess, LogFile
from tests.cluster.rig import on_loop

pytestmark = pytest.mark.multihost


async def ran(*command):
    """Exit code and lines of a child."""
    process = await ChildProcess.start(command, os.environ)
    lines = [line async for line in process.lines()]
    return await process.wait(), lines


def python(script, *args):
    return sys.executable, "-c", script, *map(str, args)


@on_loop
async def test_both_streams_are_heard_and_the_exit_code_comes_back(tmp_path):
    script = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    assert await ran(*python(script)) == (3, ["out", "err"])


@on_loop
async def test_death_by_signal_is_a_negative_code():
    assert (await ran(*python("import os; os.abort()")))[0] == -signal.SIGABRT


@on_loop
async def test_command_that_cannot_be_run_ends_with_127_and_says_why():
    assert await ran("/nowhere/lorajax") == (127, ["/nowhere/lorajax: No such file or directory"])


@on_loop
async def test_line_without_end_comes_in_pieces():
    _, lines = await ran(*python("print('x' * 1_000_000)"))
    assert (len(lines) > 1, len("".join(lines))) == (True, 1_000_000)


@on_loop
async def test_child_leads_a_process_group_of_its_own_in_our_session():
    _, (answer,) = await ran(*python("import os; print(os.getpgid(0) == os.getpid(), os.getsid(0))"))
    assert answer == f"True {os.getsid(0)}"


@on_loop
async def test_what_a_child_leaves_behind_is_killed(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    left = "import signal, sys; fifo = open(sys.argv[1], 'w'); signal.pause()"
    leave = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])"
    process = await ChildProcess.start(python(leave, left, fifo), os.environ)
    with fifo.open() as held:
        assert (await process.wait(), [line async for line in process.lines()]) == (0, [])
        assert held.read() == ""


def test_log_keeps_the_newest_lines_in_two_bounded_files(tmp_path):
    with LogFile(tmp_path / "log", print, max_bytes=100) as log:
        for number in range(100):
            log.write(f"line {number}")
    kept = (tmp_path / "log.1").read_text() + (tmp_path / "log").read_text()
    assert (len(kept) <= 220, kept.endswith("line 98\nline 99\n")) == (True, True)


def test_log_goes_on_where_an_earlier_one_stopped(tmp_path):
    for text in ("first", "second"):
        with LogFile(tmp_path / "log", print) as log:
            log.write(text)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_lines_that_cannot_be_kept_are_told_once_and_nothing_fails(tmp_path):
    said = []
    with LogFile(Path("/dev/full"), said.append) as log:
        for text in ("first", "second"):
            log.write(text)
    assert said == ["/dev/full: No space left on device; lines of this log are lost"]


def test_log_that_cannot_be_opened_is_told_and_nothing_fails(tmp_path):
    said = []
    with LogFile(tmp_path / "gone" / "log", said.append) as log:
        log.write("first")
    assert len(said) == 1
