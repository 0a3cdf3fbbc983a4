"""Keeps the processes of one node running. Owns: who is started, restarted, drained and killed, and in which order.

Does not: know what they do. What a process needs is started before it; when that ends, both are started anew.
"""

import asyncio
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.child_process import ChildProcess, LogFile
from cluster.restarts import Pace, Record, describe_end

EXIT_DRAINED, EXIT_FAILED, EXIT_HURRIED = 0, 1, 130
_USAGE, _NOT_STARTED = 2, 127
_PROGRESS = re.compile(r"\bPROGRESS .*")
_ALARM = re.compile(r"\b(?:WARNING|ERROR|CRITICAL)\b|^F\d{4} ")
_LAST_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process to keep running."""

    name: str
    command: tuple[str, ...]
    stage: int = 0
    """Lower ones start earlier and are asked to end later."""
    needs: frozenset[str] = frozenset()
    """Names of children without which it cannot go on: when one of them ends, this one is killed and starts again."""


@dataclass(slots=True)
class _Life:
    """What the supervisor knows of one child.

    Invariant: it runs (`task`), waits for its restart (`timer`), is about to be started, or all is ending.
    """

    child: Child
    needs: frozenset[str]
    """Also what its needs need."""
    task: asyncio.Task[None] | None = None
    process: ChildProcess | None = None
    timer: asyncio.TimerHandle | None = None
    is_falling: bool = False
    """Whether we killed it because one that it needs has ended."""
    was_killed: bool = False
    """Whether we killed it, for whatever reason: its end is not its own."""
    num_starts: int = 0
    has_lived: bool = False
    """Whether it ever outlived the fast limit: it can start, then."""
    record: Record = field(default_factory=Record)
    before: Record = field(default_factory=Record)
    """The record without the last failure."""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))


class Supervisor:
    """Runs children until it is told to stop or one of them never comes up.

    A child that keeps failing once it has lived, or once the cluster was ready, may not take the others along.

    Invariant: no child outlives `run`. Owner: the event loop.
    """

    def __init__(
        self,
        children: Iterable[Child],
        logs: Path,
        say: Callable[[str], None],
        *,
        environment: Mapping[str, str],
        drain_s: float = 45.0,
        pace: Pace | None = None,
    ) -> None:
        """Keep the output of each child in `logs`; `say` hears of its progress, warnings and ends.

        Who has not ended `drain_s` after it was asked to is killed.
        """
        in_order = sorted(children, key=lambda child: child.stage)
        needs_of = {child.name: child.needs for child in in_order}
        self._lives = {child.name: _Life(child, _closure(child.name, needs_of)) for child in in_order}
        self._logs = logs
        self._say = say
        self._environment = environment
        self._drain_s = drain_s
        self._pace = pace or Pace()
        self._code = EXIT_DRAINED
        self._is_over = asyncio.Event()
        self._is_told = self._was_ready = False

    async def run(self) -> int:
        """Start all, keep them running, end them; the exit code is 0 after an orderly end."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._start_what_can()
                await self._is_over.wait()
                await self._drain()
        finally:
            self._kill(self._lives.values())
        return self._code

    def stop(self) -> None:
        """Let all children finish and end; told so a second time, kill them."""
        if self._is_told:
            self._say("stopping at once")
            self._code = self._code or EXIT_HURRIED
            self._kill(self._lives.values())
        else:
            self._is_told = True
            self._say("draining; once more to stop at once")
            self._end()

    def ready(self) -> None:
        """The cluster can answer: from now on give up on no child."""
        self._was_ready = True

    def _end(self) -> None:
        self._is_over.set()
        for life in self._lives.values():
            self._unschedule(life)

    def _start_what_can(self) -> None:
        for life in self._lives.values():
            if life.task is None and not any(self._is_held_up(name) for name in life.needs | {life.child.name}):
                life.num_starts += 1
                life.task = self._tasks.create_task(self._live(life))

    def _is_held_up(self, name: str) -> bool:
        return self._lives[name].timer is not None or self._lives[name].is_falling

    async def _live(self, life: _Life) -> None:
        """One life of a child, from start to end."""
        start_s = time.monotonic()
        life.was_killed = False
        code = await self._run_once(life)
        life.task = life.process = None
        if self._is_over.is_set():
            if code not in (0, -signal.SIGTERM) and not life.was_killed:
                self._say(f"{life.child.name} {describe_end(code)} while ending")
                self._code = self._code or EXIT_FAILED
        else:
            self._ended(life, code, time.monotonic() - start_s)
            self._start_what_can()

    async def _run_once(self, life: _Life) -> int:
        """The exit code of a child that was started, or could not be, as where the system has no room for more."""
        try:
            life.process = process = await ChildProcess.start(life.child.command, self._environment)
        except OSError as error:
            self._say(f"{life.child.name} | cannot be started: {error.strerror}")
            return _NOT_STARTED
        if self._is_over.is_set() or life.is_falling:
            self._kill([life])
        with LogFile(self._log_of(life), self._say) as log:
            hearing = asyncio.create_task(self._hear(life, process, log))
            code = await process.wait()
            await hearing
        return code

    async def _hear(self, life: _Life, process: ChildProcess, log: LogFile) -> None:
        async for line in process.lines():
            log.write(line)
            if progress := _PROGRESS.search(line):
                self._say(f"{life.child.name} | {progress[0]}")
            elif _ALARM.search(line):
                self._say(f"{life.child.name} | {line}")
            elif line.strip():
                life.last_lines.append(line)

    def _ended(self, life: _Life, code: int, lived_s: float) -> None:
        """A child has ended although nobody asked it to."""
        life.has_lived |= lived_s >= self._pace.fast_s
        if life.is_falling:
            life.is_falling = False
            return
        self._fell(life.child.name)
        life.before = life.record
        if code == 0:
            self._say(f"{life.child.name} has drained; starting it anew")
            self._schedule(life, self._pace.first_s)
        else:
            life.record = life.record.failed(lived_s, self._pace)
            self._failed(life, code)

    def _failed(self, life: _Life, code: int) -> None:
        words = f"{life.child.name} {describe_end(code)}"
        is_hopeless = life.record.is_hopeless(self._pace)
        may_yet_live = self._was_ready or life.has_lived
        if (is_hopeless and not may_yet_live) or (code == _USAGE and life.num_starts == 1 and not self._was_ready):
            self._give_up(life, words)
            return
        delay_s = life.record.delay_s(self._pace)
        if is_hopeless:
            self._say_last_lines(life)
            words = f"ERROR: {words} {self._times(life)}, the others go on; its log is {self._log_of(life)}"
        self._say(f"{words}; starting it again in {delay_s:g} s")
        self._schedule(life, delay_s)

    def _fell(self, name: str) -> None:
        """Let fall whoever needs a child that has ended. Who noticed first and ended by itself is not to blame."""
        for life in self._lives.values():
            if name in life.needs:
                if life.timer is not None:
                    self._unschedule(life)
                    life.record = life.before
                elif life.task is not None:
                    life.is_falling = True
                    self._kill([life])

    def _wake(self, life: _Life) -> None:
        life.timer = None
        self._start_what_can()

    def _give_up(self, life: _Life, words: str) -> None:
        self._say_last_lines(life)
        times = f" {self._times(life)}" if life.num_starts > 1 else ""
        self._say(f"giving up: {words}{times}; its log is {self._log_of(life)}")
        self._code = EXIT_FAILED
        self._end()

    def _say_last_lines(self, life: _Life) -> None:
        for line in life.last_lines:
            self._say(f"{life.child.name} | {line}")
        life.last_lines.clear()

    def _times(self, life: _Life) -> str:
        return f"{life.record.num_fast} times in a row, each soon after its start"

    def _log_of(self, life: _Life) -> Path:
        return self._logs / f"{life.child.name}.log"

    async def _drain(self) -> None:
        """Ask the children to end, last stage first, each stage when the one after it is gone."""
        for stage in sorted({life.child.stage for life in self._lives.values()}, reverse=True):
            lives = [life for life in self._lives.values() if life.child.stage == stage and life.task is not None]
            for life in lives:
                if life.process is not None:
                    life.process.terminate()
            if not await self._are_gone(lives):
                names = ", ".join(life.child.name for life in lives if life.task is not None)
                self._say(f"killing {names}: still running {self._drain_s:g} s after SIGTERM")
                self._code = self._code or EXIT_FAILED
                self._kill(lives)
                await self._are_gone(lives)

    async def _are_gone(self, lives: Sequence[_Life]) -> bool:
        tasks = [life.task for life in lives if life.task is not None]
        return not tasks or not (await asyncio.wait(tasks, timeout=self._drain_s))[1]

    def _kill(self, lives: Iterable[_Life]) -> None:
        for life in lives:
            if life.process is not None:
                life.was_killed = True
                life.process.kill()

    def _schedule(self, life: _Life, delay_s: float) -> None:
        life.timer = asyncio.get_running_loop().call_later(delay_s, self._wake, life)

    def _unschedule(self, life: _Life) -> None:
        if life.timer is not None:
            life.timer.cancel()
            life.timer = None


def _closure(name: str, needs_of: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """All that `name` needs, directly or not; never itself."""
    found: set[str] = set()
    new = set(needs_of[name])
    while new:
        found |= new
        new = set().union(*(needs_of[other] for other in new)) - found
    return frozenset(found - {name})
