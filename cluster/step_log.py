"""What each step of a host computed and how long it took, in lines of JSON. Owns: those lines. Judges nothing.

Off unless asked for (`LORAJAX_STEP_LOG`): what the simulator of `benchmarks/` is fitted to on real hosts.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from lorajax.adapter_pages import HostAdapter
from lorajax.plan import PageWrite, StepPlan
from lorajax.runner import Steps
from lorajax.spec import Token, Version


@dataclass(frozen=True, slots=True)
class LoggedChunk:
    """The part of one sequence that a step computed."""

    request_id: str
    start: int
    num_tokens: int
    adapters: str
    """Versions of its weighted set; empty: the base."""
    num_pages: int
    """Of that set."""


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """One step; times are seconds of `time.monotonic`."""

    began_s: float
    ended_s: float
    num_writes: int
    """Adapter pages written before it computed."""
    chunks: tuple[LoggedChunk, ...]


class StepLog:
    """Steps that another carries out, each told in a line once it has ended. Owner: the engine thread."""

    def __init__(self, steps: Steps, file: TextIO) -> None:
        """Write to a file that is open."""
        self.sizes = steps.sizes
        self._steps = steps
        self._file = file
        self._began_s = 0.0

    def write(self, writes: tuple[PageWrite, ...], adapters: Mapping[Version, HostAdapter]) -> None:
        """As `Runner.write`; a step begins with it."""
        self._began_s = time.monotonic()
        self._steps.write(writes, adapters)

    def run(self, plan: StepPlan) -> dict[str, Token | None]:
        """As `Runner.run`."""
        tokens = self._steps.run(plan)
        self._file.write(json.dumps(_line(plan, self._began_s, time.monotonic()), separators=(",", ":")) + "\n")
        return tokens


def parsed(text: str) -> tuple[LoggedStep, ...]:
    """The steps of such lines, in order; a last one that is torn is left out."""
    whole, _, _ = text.rpartition("\n")
    return tuple(_step(json.loads(line)) for line in whole.splitlines())


def _line(plan: StepPlan, began_s: float, ended_s: float) -> list[object]:
    chunks = [
        (
            chunk.request.id,
            chunk.start,
            len(chunk.tokens),
            " ".join(version for version, _ in chunk.request.adapters),
            len(chunk.adapter_pages),
        )
        for chunk in plan.chunks
    ]
    return [began_s, ended_s, len(plan.writes), chunks]


def _step(line: list[Any]) -> LoggedStep:  # what `_line` made
    began_s, ended_s, num_writes, chunks = line
    return LoggedStep(began_s, ended_s, num_writes, tuple(LoggedChunk(*chunk) for chunk in chunks))
