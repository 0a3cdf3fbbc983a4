"""`lorajax launch` as a child process. Owns: its start, its log, its end. Does not: talk to it."""

import asyncio
import contextlib
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajax.errors import LorajaxError

DRAIN_S = 10
"""Each process of the cluster ends sooner: whoever asked it has gone by then."""
_STOP_S = DRAIN_S + 20.0
_LOOK_EVERY_S = 0.1
_READY = re.compile(r"^READY\b.*\bgrpc=(\S+)", re.MULTILINE)
_PROGRESS = re.compile(r"^(?:(\S+) \| )?.*?\bPROGRESS (.+)$", re.MULTILINE)
"""Who (nobody: the child itself) does what."""
_LAST_LINES = 15


class ServerDied(LorajaxError):
    """The child ended by itself, or badly when asked to; `last_words` is the end of its log."""

    def __init__(self, message: str, last_words: Sequence[str]) -> None:
        """Keep the lines beside the message."""
        Exception.__init__(self, message)
        self.last_words = tuple(last_words)


@dataclass(slots=True)
class Child:
    """A running cluster; `keep` leaves it running when its context ends."""

    process: subprocess.Popen[bytes]
    log: Path
    target: str = ""
    keep: bool = False


@contextlib.asynccontextmanager
async def serving(command: Sequence[str], log: Path, on_phase: Callable[[str, str], None]) -> AsyncIterator[Child]:
    """A cluster, started by `command`, that has said READY; drained and gone afterwards, whatever happens in between.

    `on_phase` hears each "WHO | PROGRESS WHAT" of the child's log, what first. Raises: ServerDied.
    """
    with log.open("wb") as out:
        # Its own process group: Ctrl-C reaches us alone, and we decide how the child ends. Not asyncio's subprocess,
        # whose transport kills the child when the loop closes.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, process_group=0
        )
    child = Child(process, log)
    try:
        child.target = await _ready(child, on_phase)
        yield child
    except LorajaxError as error:
        if await _has_ended(process, within_s=1.0):
            raise _death(child) from error
        raise
    finally:
        if not child.keep:
            await _stop(process)
    if process.returncode:
        raise _death(child)


async def _ready(child: Child, on_phase: Callable[[str, str], None]) -> str:
    """Where the child answers. Reads a file, not a pipe: a child that is kept goes on logging when we are gone."""
    num_heard = 0
    while True:
        has_ended = await _has_ended(child.process, within_s=_LOOK_EVERY_S)
        text = _read(child.log)
        phases = _PROGRESS.findall(text)
        for who, what in phases[num_heard:]:
            on_phase(what, who)
        num_heard = len(phases)
        if has_ended:
            raise _death(child)
        if ready := _READY.search(text):
            return ready[1]


async def _has_ended(process: subprocess.Popen[bytes], *, within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < deadline_s:
        await asyncio.sleep(_LOOK_EVERY_S)
    return process.poll() is not None


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, so that it drains; SIGKILL if that takes far too long, or if we are interrupted again."""
    try:
        if process.poll() is None:
            process.terminate()
            await _has_ended(process, within_s=_STOP_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _death(child: Child) -> ServerDied:
    """How the child ended, in words, with the end of its log."""
    text = _read(child.log)
    lines = [line for line in text.splitlines() if line.strip() and not _PROGRESS.match(line)]
    when = "" if _READY.search(text) else " before it was ready"
    message = f"the cluster {_describe_end(child.process.returncode)}{when}; all of its log is {child.log}"
    return ServerDied(message, lines[-_LAST_LINES:])


def _describe_end(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (often: out of memory; free some, or use a smaller model)"
    return f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
