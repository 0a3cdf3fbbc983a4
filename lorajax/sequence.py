"""One request being served. Owns: its tokens, page table, progress and times. Does not: choose pages or when to run."""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from operator import attrgetter

from lorajax.spec import FinishReason, Request, Timing, Version


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Everything the engine remembers of one request between steps.

    Invariant: KV of positions 0 … num_cached - 1 is written in `pages`, which are only this sequence's.
    It is running exactly while it has pages; a preempted one is a waiting one with more tokens.
    Owner: the scheduler.
    """

    request: Request
    arrival: int
    """Number of the request in order of arrival: breaks ties of priority, and is unique."""
    submitted_s: float
    tokens: list[int] = field(init=False)
    """Prompt and everything generated since."""
    adapters: tuple[tuple[Version, float], ...] = field(init=False)
    """The request's weighted set in version order, so that equal sets compare equal and sum in one order."""
    versions: tuple[Version, ...] = field(init=False)
    most_tokens: int = field(init=False)
    """Where the completion ends at the latest."""
    pages: list[int] = field(default_factory=list)
    """KV page of position p is pages[p // page tokens]."""
    adapter_pages: tuple[tuple[int, float], ...] = ()
    """(device page, weight) of the whole set; valid while running."""
    num_cached: int = 0
    num_overtaken: int = 0
    """Later requests with adapters that started first while this one had no room for its own."""
    was_short: bool = False
    """Whether it ever had no room for its adapters."""
    adapter_ready_s: float | None = None
    scheduled_s: float | None = None
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        """Start from the prompt."""
        self.tokens = list(self.request.prompt)
        self.adapters = tuple(sorted(self.request.adapters))
        self.versions = tuple(version for version, _ in self.adapters)
        self.most_tokens = len(self.request.prompt) + self.request.sampling.max_tokens

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: what comes first is served first and preempted last."""
        return (-self.request.priority, self.arrival)

    @property
    def is_running(self) -> bool:
        """Whether it holds pages, so a place among the running."""
        return bool(self.pages)

    @property
    def num_uncached(self) -> int:
        """Tokens still to be fed before the next one can be sampled; 1 when decoding."""
        return len(self.tokens) - self.num_cached

    @property
    def num_output(self) -> int:
        """Tokens generated so far, a stop token included."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def output(self) -> tuple[int, ...]:
        """Tokens generated so far; copies them."""
        return tuple(self.tokens[len(self.request.prompt) :])

    def is_expired(self, now_s: float) -> bool:
        """Whether the request's own deadline has passed."""
        return self.request.deadline_s is not None and now_s >= self.request.deadline_s

    def observe_adapters(self, *, are_ready: bool, now_s: float) -> None:
        """Note since when its adapters have all been on the device, up to its first step."""
        if self.scheduled_s is not None:
            return
        if not are_ready:
            self.adapter_ready_s = None
        elif self.adapter_ready_s is None:
            self.adapter_ready_s = now_s

    def append(self, token_id: int, stop_token_ids: tuple[int, ...], now_s: float) -> FinishReason | None:
        """Add one sampled token; returns why the completion ends with it, or None to go on."""
        self.tokens.append(token_id)
        if self.first_token_s is None:
            self.first_token_s = now_s
        sampling = self.request.sampling
        if token_id in sampling.stop_token_ids or (token_id in stop_token_ids and not sampling.ignore_eos):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.num_output >= sampling.max_tokens else None

    def rewind(self) -> list[int]:
        """Forget all KV, to be prefilled again from the tokens; returns the pages to give back."""
        pages, self.pages = self.pages, []
        self.num_cached = 0
        return pages

    def timing(self, now_s: float) -> Timing:
        """Where the time went; adapter wait, queue and prefill add up to the time to the first token.

        What has not happened yet counts as happening now.
        """
        ready_s = now_s if self.adapter_ready_s is None else self.adapter_ready_s
        scheduled_s = now_s if self.scheduled_s is None else self.scheduled_s
        first_token_s = now_s if self.first_token_s is None else self.first_token_s
        return Timing(
            queue_s=scheduled_s - ready_s,
            adapter_wait_s=ready_s - self.submitted_s,
            prefill_s=first_token_s - scheduled_s,
            first_token_s=first_token_s - self.submitted_s,
            total_s=now_s - self.submitted_s,
        )


_ORDER = attrgetter("order")


def insert(ordered: list[Sequence], sequence: Sequence) -> None:
    """Put it where its order wants it."""
    insort(ordered, sequence, key=_ORDER)


def discard(ordered: list[Sequence], sequence: Sequence) -> None:
    """Take it out of a list that holds it."""
    del ordered[bisect_left(ordered, sequence.order, key=_ORDER)]


def overtake(passed: list[Sequence]) -> int:
    """Count one more request that started before these; returns how often one of them was overtaken at most."""
    for sequence in passed:
        sequence.num_overtaken += 1
    return max((sequence.num_overtaken for sequence in passed), default=0)
