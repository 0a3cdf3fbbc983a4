"""A real cluster on this machine, as `lorajax launch` starts it. Owns: its file, its life, its processes by name.

Does not: talk to it (cluster/client.py does), or make models.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from lorajax.errors import LorajaxError

type Tables = Mapping[str, Mapping[str, object]]

_END_S = 60.0
_LAST_LINES = 15


class ClusterDied(LorajaxError):
    """The launcher ended by itself, ended badly, or left processes behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """A cluster that has said READY."""

    launcher: subprocess.Popen[str]
    config: Path
    log: Path
    """What the launcher says to people."""
    target: str
    """HOST:PORT of the gateway."""

    def process(self, name: str) -> psutil.Process:
        """The process that now has the name: "gateway", "host-0" ... Raises KeyError while there is none."""
        return self.processes()[name]

    def processes(self) -> dict[str, psutil.Process]:
        """Every process that the launcher looks after, by name."""
        return children_of(self.launcher)


def children_of(launcher: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
    """The processes that a launcher has started so far, by name."""
    named: dict[str, psutil.Process] = {}
    for child in psutil.Process(launcher.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, ValueError):
            command = child.cmdline()
            role = command[command.index("lorajax") + 1]
            named[f"host-{command[command.index('--process') + 1]}" if role == "host" else role] = child
    return named


def write_config(file: Path, tables: Tables) -> Path:
    """A `cluster.toml` of these tables; a value is what JSON and TOML write alike."""
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@contextlib.contextmanager
def launched(
    config: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    started: Callable[["subprocess.Popen[str]"], None] = lambda _launcher: None,
) -> Iterator[LocalCluster]:
    """A cluster that can answer; drained and gone afterwards. `environment` is added to ours.

    `started` is called with the launcher once it runs, before anything is ready.

    Raises: ClusterDied where it does not become ready, does not end in good order, or leaves a process behind.
    """
    try:
        with launcher(config, log, environment=environment) as process:
            started(process)
            yield LocalCluster(launcher=process, config=config, log=log, target=ready(process, log))
    finally:
        for process in (left := processes_of(config)):
            process.kill()
    if left:
        raise ClusterDied(f"the cluster left {len(left)} processes; {_last_words(log)}")


@contextlib.contextmanager
def launcher(
    config: Path,
    log: Path,
    flags: Sequence[str] = (),
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """`lorajax launch` of one node, started by way of the command `prefix`. Raises ClusterDied if it ends badly."""
    command = (*prefix, sys.executable, "-m", "lorajax", "launch", "--config", str(config), *flags)
    with (
        log.open("w") as said,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=os.environ | dict(environment or {})
        ) as process,
    ):
        try:
            yield process
        finally:
            code = _ended(process)
    if code:
        raise ClusterDied(f"the launcher ended with {code}; {_last_words(log)}")


def ready(process: subprocess.Popen[str], log: Path) -> str:
    """HOST:PORT of the gateway, once the launcher says READY. Raises ClusterDied if it ends before."""
    assert process.stdout is not None, "it is a pipe"
    line = process.stdout.readline()
    if not line.startswith("READY "):
        raise ClusterDied(f"the cluster did not become ready; {_last_words(log)}")
    return dict(pair.split("=", 1) for pair in line.split()[1:])["grpc"]


def processes_of(config: Path) -> list[psutil.Process]:
    """Every living process of this machine that was started with the configuration."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            if str(config) in process.cmdline() and "lorajax" in process.cmdline():
                found.append(process)
    return found


def _ended(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _last_words(log: Path) -> str:
    return "it said:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
