"""Tiny children for a supervisor, and an ear for what it says."""

import asyncio
import contextlib
import os
import re
import sys

from cluster.restarts import Pace
from cluster.supervisor import Child, Supervisor

TIMEOUT_S = 30
QUICK = Pace(first_s=0.01, most_s=0.05)
# Says its number, and ends in order when it is asked to.
POLITE = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("PROGRESS bye", flush=True), sys.exit(0)))
print("PROGRESS up", os.getpid(), flush=True)
while True:
    signal.pause()
"""
DEAF = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print("PROGRESS no", flush=True))
print("PROGRESS up", os.getpid(), flush=True)
while True:
    signal.pause()
"""


def child(name, script=POLITE, *args, stage=0, needs=()):
    command = (sys.executable, "-c", script, *map(str, args))
    return Child(name=name, command=command, stage=stage, needs=frozenset(needs))


class Ear:
    """Every line that a supervisor has said, and a wait for the next that contains some words."""

    def __init__(self):
        self.said = []
        self._lines = asyncio.Queue()

    def __call__(self, line):
        self.said.append(line)
        self._lines.put_nowait(line)

    async def hear(self, words):
        async with asyncio.timeout(TIMEOUT_S):
            while words not in (line := await self._lines.get()):
                pass
        return line

    async def hear_all(self, *words):
        """The lines, in the order of `words`, in whatever order they come."""
        found = {}
        async with asyncio.timeout(TIMEOUT_S):
            while len(found) < len(words):
                line = await self._lines.get()
                found |= {word: line for word in words if word in line and word not in found}
        return [found[word] for word in words]


def pid_of(line):
    return int(re.search(r"up (\d+)", line)[1])


@contextlib.asynccontextmanager
async def supervised(logs, *children, **options):
    """A running supervisor, its ear and its task; killed in the end if it still runs."""
    ear = Ear()
    supervisor = Supervisor(children, logs, ear, environment=os.environ, **{"pace": QUICK} | options)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, ear, task
    finally:
        supervisor.stop()
        supervisor.stop()
        async with asyncio.timeout(TIMEOUT_S):
            await task
