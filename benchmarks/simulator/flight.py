"""One request on its way. Owns: what is known of it between its arrival and its end. Does not: move it."""

import math
from dataclasses import dataclass, field
from functools import lru_cache

from benchmarks.outcomes.records import Outcome
from benchmarks.simulator.clock import Timer
from benchmarks.simulator.timing import BASE
from benchmarks.workloads.records import Arrival
from cluster.routing_input import Ask
from cluster.view import Adapter, HostName
from lorajax.spec import Request, Sampling, Version


@dataclass(eq=False, slots=True, kw_only=True)
class Flight:
    """Invariant: it is at one host at most, and `num_tokens` are those of that host."""

    number: int
    id: str
    arrival: Arrival
    adapter: Adapter | None = None
    version: Version = BASE
    ask: Ask | None = None
    """Once it is let in."""
    host: HostName | None = None
    """Where it is."""
    last_host: HostName | None = None
    """Where it was."""
    tried: set[HostName] = field(default_factory=set)
    refusal: str = ""
    """Why the host before did not take it, by gRPC's name."""
    num_tokens: int = 0
    first_s: float = math.inf
    token_s: list[float] = field(default_factory=list)
    deadline: Timer | None = None

    def request(self) -> Request:
        """As an engine gets it; nobody looks at its tokens."""
        return Request(
            id=self.id,
            prompt=_prompt(self.arrival.prompt_tokens),
            sampling=_sampling(self.arrival.output_tokens),
            adapters=((self.version, 1.0),) if self.adapter else (),
        )

    def outcome(self, code: str, end_s: float, began_s: float) -> Outcome:
        """What became of it, on a clock that began at `began_s`."""
        is_ok = code == "OK"
        return Outcome(
            due_s=self.arrival.at_s,
            adapter=self.arrival.adapter,
            rank=self.adapter.rank if self.adapter else 0,
            prompt_tokens=self.arrival.prompt_tokens,
            output_tokens=self.num_tokens,
            sent_s=self.arrival.at_s,
            first_s=self.first_s - began_s,
            end_s=end_s - began_s if is_ok else math.inf,
            code=code,
            host=self.host or self.last_host or "",
            token_s=tuple(when_s - began_s for when_s in self.token_s),
            tenant=self.arrival.tenant,
        )


@lru_cache(2**14)
def _prompt(num_tokens: int) -> tuple[int, ...]:
    return (0,) * num_tokens


@lru_cache(2**14)
def _sampling(max_tokens: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, ignore_eos=True)
