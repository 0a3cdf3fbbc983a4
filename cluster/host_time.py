"""When a host would have an answer. Owns: what one front door knows of its work, and the estimate. Chooses nothing.

A fluid model: prompts are read one after the other, sequences decode together, and every token costs host-seconds by
rank. It ranks hosts and tells seconds from minutes; it is no promise.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.view import HostLoad, HostSpec, HostState
from lorajax.spec import Level, Version

_STALE_S = 3.0
"""A beat this old says nothing of what other front doors have sent since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a request asks of a host of speed 1."""

    cost_s: float
    """Host-seconds per token."""
    prompt_tokens: int
    new_tokens: float
    """As many as are likely to come."""
    rank: int = 0

    @property
    def prompt_s(self) -> float:
        """Host-seconds of its prompt."""
        return self.prompt_tokens * self.cost_s


@dataclass(slots=True, kw_only=True)
class HostTime:
    """What is known of one host: its last beat, and this front door's own requests on it.

    Invariant: the own sums are those of the requests that have begun and not ended.
    """

    spec: HostSpec
    state: HostState
    load: HostLoad
    copies: Mapping[Version, Level]
    heard_s: float = -math.inf
    avoided_until_s: float = -math.inf
    ranks: Counter[int] = field(default_factory=Counter)
    """Of the own requests on it."""
    _requests: int = 0
    _prompt_tokens: int = 0
    _prompt_s: float = 0.0
    """Host-seconds of the prompts that have not had their first token."""
    _step_s: float = 0.0
    """Host-seconds in which each own request gets one token."""
    _other_requests: int = 0
    _other_tokens: int = 0
    """Prompt tokens that wait for other front doors."""

    @property
    def num_requests(self) -> int:
        """Requests there: the own ones, and those of others as of the last beat."""
        return self._requests + self._other_requests

    @property
    def is_idle(self) -> bool:
        """Whether nothing is there, as far as is known."""
        return not (self.num_requests or self._other_tokens)

    @property
    def step_s(self) -> float:
        """Host-seconds in which each own request gets one token."""
        return self._step_s

    def holds(self, version: Version) -> bool:
        """Whether the adapter is in its memory."""
        return self.copies.get(version, Level.STORE) is not Level.STORE

    def hear(self, load: HostLoad, now_s: float) -> None:
        """Learn from a beat what others have there."""
        self.load, self.heard_s = load, now_s
        self._other_requests = max(0, load.num_running + load.num_waiting - self._requests)
        self._other_tokens = max(0, load.waiting_tokens - self._prompt_tokens)

    def begin(self, work: Work) -> None:
        """Count a request that was sent there."""
        self._requests += 1
        self.ranks[work.rank] += 1
        self._prompt_tokens += work.prompt_tokens
        self._prompt_s += work.prompt_s
        self._step_s += work.cost_s

    def read_prompt(self, work: Work) -> None:
        """Know that a request's prompt was read."""
        self._prompt_tokens -= work.prompt_tokens
        self._prompt_s -= work.prompt_s

    def end(self, work: Work) -> None:
        """Count a request no more."""
        self._requests -= 1
        self._step_s -= work.cost_s
        self.ranks[work.rank] -= 1
        if not self.ranks[work.rank]:
            del self.ranks[work.rank]
        if not self._requests:  # what rounding has left
            self._prompt_tokens, self._prompt_s, self._step_s = 0, 0.0, 0.0

    def busy_s(self, cost_s: float) -> float:
        """Seconds of work that wait there, roughly: what the least busy hosts are found by."""
        waiting_s = self._prompt_s + self._other_tokens * cost_s
        running_s = self._step_s + self._other_requests * cost_s
        return (waiting_s + running_s * self.spec.max_sequences) / self.spec.speed

    def times_s(self, work: Work, fetch_s: float, now_s: float) -> tuple[float, float]:
        """Seconds until the first token and until the last one, were the request sent there now."""
        is_stale = now_s - self.heard_s > _STALE_S
        others = 0 if is_stale else self._other_requests
        slots = max(1, self.spec.max_sequences)
        requests = self._requests + others
        queue_s = self._prompt_s + (0 if is_stale else self._other_tokens) * work.cost_s
        # While sequences decode, prompts get the rest of the time.
        slowness = (1 + min(requests, slots) / slots) / self.spec.speed
        # One place is free each time that a sequence ends.
        places = max(0, requests + 1 - slots) + (not self._has_kv_room())
        place_s = places * work.new_tokens * work.cost_s / self.spec.speed
        first_s = max(fetch_s, queue_s * slowness + place_s) + work.prompt_s * slowness
        step_s = (self._step_s + (others + 1) * work.cost_s) / self.spec.speed
        return first_s, first_s + work.new_tokens * step_s * min(1.0, slots / (requests + 1))

    def _has_kv_room(self) -> bool:
        """Whether the free pages would do for one more sequence of the size of those that run."""
        used = self.load.kv_pages_total - self.load.kv_pages_free
        return self.load.kv_pages_free * max(1, self.load.num_running) >= used
