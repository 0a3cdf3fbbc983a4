"""How long to wait before a process that ended is started again. Owns: those numbers, and the words for an end.

Does not: start or watch anything.
"""

import signal
from dataclasses import dataclass

_WORDS = {
    0: "has drained",
    2: "could not start as it was configured",
    127: "could not be started",
    128 + signal.SIGABRT: "aborted: a host never joined or a group member died",
    128 + signal.SIGKILL: "was killed: out of memory, or kill -9",
    128 + signal.SIGSEGV: "crashed: segmentation fault",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How patient a supervisor is."""

    first_s: float = 1.0
    """Before the first restart; each one after waits twice as long. Who has run well before is started at once."""
    most_s: float = 30.0
    fast_s: float = 30.0
    """Who ends sooner after its start failed fast."""
    steady_s: float = 300.0
    """Who lived longer is as good as new."""
    max_fast: int = 5
    """Fast failures in a row that count as never coming up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How often a process has failed of late."""

    num_failures: int = 0
    num_fast: int = 0

    def failed(self, lived_s: float, pace: Pace) -> "Record":
        """The record after one more failure."""
        num_failures = 1 if lived_s >= pace.steady_s else self.num_failures + 1
        return Record(num_failures=num_failures, num_fast=self.num_fast + 1 if lived_s < pace.fast_s else 0)

    def is_hopeless(self, pace: Pace) -> bool:
        """Whether it has failed fast so often that one more start will hardly help."""
        return self.num_fast >= pace.max_fast

    def delay_s(self, pace: Pace) -> float:
        """How long to wait before the next start."""
        if self.num_failures == 1 and not self.num_fast:
            return 0.0
        if self.is_hopeless(pace):
            return pace.most_s
        return float(min(pace.first_s * 2 ** min(self.num_failures - 1, 16), pace.most_s))


def describe_end(code: int) -> str:
    """An exit code in words; -N is death by signal N, which shells and containers write as 128 + N."""
    number = 128 - code if code < 0 else code
    if number in _WORDS:
        return f"{_WORDS[number]} (exit code {number})"
    if number > 128 and number - 128 in set(signal.Signals):
        return f"was ended by {signal.Signals(number - 128).name} (exit code {number})"
    return f"failed (exit code {number})"
