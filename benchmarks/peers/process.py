"""A peer as a child process of a benchmark. Owns: its start, its turns, its end. Does not: know what it runs.

Between its turns a peer is stopped (SIGSTOP, its whole process group), for some spin while they wait.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajax.errors import LorajaxError

_ROOT = Path(__file__).resolve().parent.parent.parent
_END_S = 30.0
_LAST_LINES = 3
SETUP = "benchmarks/peers/setup.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to start a peer with."""

    module: str
    """Of `benchmarks.peers`, also the name of its log."""
    python: Path
    model: Path
    prompts: Path
    adapters: Mapping[str, Path]
    new_tokens: int

    @property
    def problem(self) -> str | None:
        """Why it cannot be started and what to do, in one line; None if it can."""
        missing = next((path for path in (self.python, self.model / "config.json") if not path.exists()), None)
        return f"{self.module} is left out: no {missing}; run {SETUP} first, or --peers none" if missing else None

    @property
    def command(self) -> list[str]:
        """Its command line."""
        adapters = [part for name, folder in self.adapters.items() for part in ("--adapter", f"{name}={folder}")]
        places = ["--model", str(self.model), "--prompts", str(self.prompts)]
        return [
            *(str(self.python), "-m", f"benchmarks.peers.{self.module}"),
            *(*places, "--new-tokens", str(self.new_tokens), *adapters),
        ]


class PeerDied(LorajaxError):
    """A peer ended before it was asked to."""


class Peer:
    """A started peer. It runs from `start` to `pause`, and then only within `measure`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        """Take over a process that leads its own process group."""
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Of the process that leads its group."""
        return self._process.pid

    def pause(self) -> None:
        """Wait until it has loaded, and stop it. Raises: PeerDied."""
        self._answer()
        self._stop()

    def measure(self, adapters: Sequence[str | None]) -> dict[str, float]:
        """One measured batch, the adapters repeated over its prompts. Raises: PeerDied."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(adapters) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._stop()
        return answer

    def end(self) -> None:
        """End it, in order if it can."""
        assert self._process.stdin is not None
        with contextlib.suppress(ProcessLookupError, BrokenPipeError, subprocess.TimeoutExpired):
            self._signal(signal.SIGCONT)
            self._process.stdin.close()
            self._process.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last = " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:])
            raise PeerDied(f"{self._log.stem} ended by itself; run {SETUP} again, or --peers none. It said: {last}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def _stop(self) -> None:
        # A signal is on its way when kill returns; the others' turn begins once this one has stopped, or is dead.
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)


@contextlib.contextmanager
def started(launch: Launch, log: Path) -> Iterator[Peer]:
    """A peer that loads in the background; ended, with all of its children, when the context ends."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            launch.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
            cwd=_ROOT,
            start_new_session=True,
        ) as process,
    ):
        peer = Peer(process, log)
        try:
            yield peer
        finally:
            peer.end()


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages in a peer's environment."""
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    found = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, found.stdout.split(), strict=True))
