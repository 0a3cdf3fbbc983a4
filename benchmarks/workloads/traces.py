"""A trace as read: columns, some of which a file may lack. Owns: this record, its rows by time. Does not: read, scale.

A column that the file lacks is empty.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.workloads.arrivals import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests that somebody made, in the order of the file."""

    label: str
    """For facts and errors: the file's name."""
    at_s: Floats
    """After the trace's begin; NaN where a row has no time."""
    prompt_tokens: Ints
    output_tokens: Ints
    adapters: tuple[str, ...]
    """Empty text: the base model. Of a request with several the first."""
    tenants: tuple[str, ...]
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Of adapters, if the file knows them; also of those that nobody asks for."""
    duration_s: float = 0.0
    """From the begin to where a repetition would begin; 0: one mean gap after the last request."""

    def timed(self) -> "Trace":
        """The rows with a time, in order of time.

        Raises: ValueError if they are fewer than two, or all at one time.
        """
        rows = np.argsort(self.at_s, kind="stable")[: np.isfinite(self.at_s).sum()]
        if len(rows) < 2 or self.at_s[rows[0]] == self.at_s[rows[-1]]:
            raise ValueError(f"{self.label} has {len(rows)} rows with a time; give a trace with two, at two times")
        timed = self._at(rows)
        first_s, last_s = timed.at_s[[0, -1]].tolist()
        return replace(timed, duration_s=self.duration_s or last_s + (last_s - first_s) / (len(rows) - 1))

    @property
    def has_lengths(self) -> bool:
        """Whether it says how long prompts and answers are."""
        return bool(len(self.prompt_tokens) and len(self.output_tokens))

    def among(self, names: tuple[str, ...]) -> "Trace":
        """The rows that ask for one of these; empty text among them is the base model."""
        known = set(names)
        return self._at(np.flatnonzero([name in known for name in self.adapters]))

    def popular(self) -> tuple[str, ...]:
        """Adapters, the most asked for first; last those that nobody asks for."""
        asked = Counter(name for name in self.adapters if name)
        return tuple(name for name, _ in asked.most_common()) + tuple(name for name in self.ranks if name not in asked)

    def _at(self, rows: Ints) -> "Trace":
        return replace(
            self,
            at_s=self.at_s[rows],
            prompt_tokens=self.prompt_tokens[rows] if len(self.prompt_tokens) else self.prompt_tokens,
            output_tokens=self.output_tokens[rows] if len(self.output_tokens) else self.output_tokens,
            adapters=tuple(self.adapters[row] for row in rows.tolist()) if self.adapters else (),
            tenants=tuple(self.tenants[row] for row in rows.tolist()) if self.tenants else (),
        )
