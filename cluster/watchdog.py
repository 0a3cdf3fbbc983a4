"""A device step that never returns. Owns: how that is noticed, and the end of the process. Does not: start it anew.

An engine whose thread hangs in a collective or on a broken device would beat on and be sent requests for ever. So the
process ends, with the stacks of its threads in the log, and whoever supervises it starts another.
"""

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping

from lorajax.adapter_pages import HostAdapter
from lorajax.cli_types import EXIT_FAILED
from lorajax.plan import PageWrite, StepPlan
from lorajax.runner import Steps
from lorajax.spec import Token, Version

_LOG = logging.getLogger("lorajax")
LOOK_S, NUM_LOOKS = 5.0, 12
"""How often it is looked, and how often in a row within one step: a minute. Programs are compiled before; what a step
takes then is far below. Looks are counted, not seconds: a process that was stopped for a while goes on unharmed."""


class Watchdog:
    """Steps that another carries out, and an eye on them. The engine's thread runs them, another one looks."""

    def __init__(self, steps: Steps, on_hang: Callable[[], None]) -> None:
        """Watch `steps`; `on_hang` is called by the look that finds that one hangs."""
        self.sizes = steps.sizes
        self._steps = steps
        self._on_hang = on_hang
        self._number = 0
        """Odd while a step runs."""
        self._last, self._num_seen = 0, 0

    def write(self, writes: tuple[PageWrite, ...], adapters: Mapping[Version, HostAdapter]) -> None:
        """As `Runner.write`."""
        self._number += 1
        try:
            self._steps.write(writes, adapters)
        finally:
            self._number += 1

    def run(self, plan: StepPlan) -> dict[str, Token | None]:
        """As `Runner.run`."""
        self._number += 1
        try:
            return self._steps.run(plan)
        finally:
            self._number += 1

    def look(self) -> None:
        """Count how often in a row the same step was seen to run."""
        number = self._number
        self._num_seen = self._num_seen + 1 if number % 2 and number == self._last else 0
        self._last = number
        if self._num_seen == NUM_LOOKS:
            self._on_hang()

    def start(self) -> None:
        """Look again and again, until the process ends."""

        def watch() -> None:
            never = threading.Event()
            while not never.wait(LOOK_S):
                self.look()

        threading.Thread(target=watch, name="watchdog", daemon=True).start()


def end_process() -> None:
    """What hangs in a device can be neither interrupted nor waited for."""
    _LOG.critical("a step has not returned for %g s; ending this process", LOOK_S * NUM_LOOKS)
    faulthandler.dump_traceback(sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_FAILED)
