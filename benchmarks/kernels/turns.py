"""Measurements in a process of their own, which may die or hang. Owns: the lines that pass, limits, new starts.

Does not: measure. A GPU that waits for ever takes its process with it: that one is killed, the task it was at is said
to have failed, and the others go on in a new process. Peers run this file with their own Python, 3.11 or later.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START_S = 120.0
"""For imports and a device, before the first task begins."""
_LAST_LINES = 4
_NO_TIME = "no time was left"

Found = dict[str, Any]
"""What a task says, as JSON; `error` where it failed."""


@dataclass(frozen=True)
class Task:
    """One measurement with a name that no other has."""

    name: str
    limit_s: float
    run: Callable[[], Found]


def serve(tasks: Iterable[Task], skip: Sequence[str]) -> None:
    """Run the tasks one by one and print two lines for each: that it begins, and what it found."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print to stdout
    for task in tasks:
        if task.name in skip:
            continue
        print(json.dumps({"begins": task.name, "limit_s": task.limit_s}), file=replies)
        start_s = time.perf_counter()
        try:
            found = task.run()
        except Exception as error:  # noqa: BLE001 - a process border: the others go on
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
        print(json.dumps({"ends": task.name, "found": found | {"wall_s": time.perf_counter() - start_s}}), file=replies)


@dataclass(frozen=True)
class Child:
    """How to start a process that serves tasks."""

    command: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str]
    log: Path

    def outcomes(self, until_s: float) -> Iterator[tuple[str, Found]]:
        """(task, what it found) of every task, as they end; nothing begins after `until_s` of the monotonic clock."""
        done: list[str] = []
        while time.monotonic() < until_s:
            with self._started(done) as process:
                at = yield from self._one_life(process, until_s, done)
            if at is None:
                return
            done.append(at)
        yield "start", {"error": _NO_TIME}

    def _started(self, done: Sequence[str]) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.command, "--skip", "|".join(done)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.cwd,
                env=dict(self.environment),
                start_new_session=True,
            )

    def _one_life(
        self, process: "subprocess.Popen[str]", until_s: float, done: list[str]
    ) -> Generator[tuple[str, Found], None, str | None]:
        """Outcomes until the process ends; returns the task that it was at, None where nothing is left to do."""
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        at, limit_s = "", _START_S
        try:
            while True:
                try:
                    line = lines.get(timeout=max(0.0, min(limit_s, until_s - time.monotonic())))
                except queue.Empty:
                    is_over = time.monotonic() >= until_s
                    yield at or "start", {"error": _NO_TIME if is_over else f"took longer than {limit_s:g} s"}
                    return None if is_over or not at else at
                if not line:
                    if (code := process.wait()) == 0:
                        return None
                    yield at or "start", {"error": f"its process died, exit {code}: {self._last_words()}"}
                    return at or None
                if not line.startswith('{"'):  # printed while something was imported
                    continue
                said = json.loads(line)
                if "begins" in said:
                    at, limit_s = said["begins"], said["limit_s"]
                else:
                    done.append(said["ends"])
                    at, limit_s = "", _START_S
                    yield said["ends"], said["found"]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-_LAST_LINES:])[-600:]


def _read(process: subprocess.Popen[str], lines: "queue.Queue[str]") -> None:
    """All lines of the process, then an empty one."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")
