"""The processes of one replica. Owns: how they find each other, and that they end together.

Does not: say what they tell each other (lockstep.py), or serve. Most replicas are one process and need none of this.
"""

import logging
import os
import signal
from collections.abc import Callable

from cluster import lockstep, world
from cluster.config import WorldConfig
from lorajax.cli_types import EXIT_FAILED
from lorajax.runner import Runner, Steps

_LOG = logging.getLogger("lorajax")


class Replica:
    """The leader's view: what its engine drives, and who carries that out with it."""

    def __init__(self, runner: Runner, place: WorldConfig | None, host: str) -> None:
        """Lead the replica of `place`, alone where it has no other process; followers find us at `host`."""
        self.runner: Steps = runner
        self._compile = runner.compile
        self._followers: lockstep.Followers | None = None
        if place is not None and place.per_replica > 1:
            self._followers = lockstep.Followers(place.replica[1:], on_lost=_end)
            world.announce(_key(place), self._followers.start(host))
            self.runner = lockstep.Leader(runner, self._followers.send)

    def compile(self, progress: Callable[[str], None]) -> None:
        """Compile every program, and wait until the others have."""
        self._compile(progress)
        if self._followers is not None:
            progress("waiting for the other processes of the replica")
            self._followers.wait(lockstep.JOIN_S)

    def stop(self) -> None:
        """Let the others end, too."""
        if self._followers is not None:
            self._followers.stop()


def follow(runner: Runner, place: WorldConfig, progress: Callable[[str], None]) -> int:
    """Do as the leader of the replica does until it ends; returns the exit code. Raises EngineFailure if it is lost."""
    runner.compile(progress)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the leader drains, and its end is ours
    lockstep.follow(runner, lockstep.orders_of(lambda: world.look_up(_key(place), lockstep.JOIN_S), place.process))
    return 0


def _key(place: WorldConfig) -> str:
    return f"leader-of/{place.replica.start}"


def _end() -> None:
    """A follower is lost, and the engine may hang in a collective with it: nothing here can be saved."""
    _LOG.critical("a process of this replica is gone; ending the replica")
    os._exit(EXIT_FAILED)
