"""Steps that are alike, taken at once. Owns: how far what runs only decodes, and going there.

Does not: know time, or what waits. An engine computes each token and sends it; a simulator has no use for that, and no
token of its ends a completion.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from lorajax.limits import EngineLimits
from lorajax.pages import PagePool
from lorajax.sequence import Sequence

_ID = 0
"""Of every token, which nobody looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Steps in each of which each of some sequences gets a token."""

    sequences: tuple[Sequence, ...] = field(repr=False)
    others: tuple[Sequence, ...] = field(repr=False)
    """Those that run and do more: they read a prompt, or get their first token."""
    context_tokens: int
    """KV that the first step reads; each one after it reads one more for every sequence."""
    num_steps: int
    """At least 1. No sequence ends before the last."""


def stretch_of(running: Iterable[Sequence], limits: EngineLimits, kv: PagePool) -> Stretch | None:
    """The decoding of all that only decode, as long as there are pages; takes those of the first step.

    None where none does, or where pages are so few that it matters who is first.
    """
    decoding, others, lengths, lefts, num_held = [], [], [], [], 0
    for one in running:
        length, request = len(one.tokens), one.request
        num_output = length - len(request.prompt)
        if length - one.num_cached == 1 and num_output:
            decoding.append(one)
            lengths.append(length)
            lefts.append(request.sampling.max_tokens - num_output)
            num_held += len(one.pages)
        else:
            others.append(one)
    page_tokens, num_free = limits.config.kv_page_tokens, kv.num_free + num_held
    num_spare = limits.num_kv_pages_of(limits.config.max_batch_tokens) + len(others) if others else 0
    if not decoding or _num_pages(lengths, 1, page_tokens) + num_spare > num_free:
        return None
    num_steps = min(lefts)
    while num_steps > 1 and _num_pages(lengths, num_steps, page_tokens) > num_free:
        num_steps //= 2
    _take_pages(decoding, kv, 1, page_tokens)
    return Stretch(sequences=tuple(decoding), others=tuple(others), context_tokens=sum(lengths), num_steps=num_steps)


def advance(stretch: Stretch, limits: EngineLimits, kv: PagePool, num_steps: int) -> list[Sequence]:
    """Give each that still runs so many tokens, and the pages for them; returns those that have ended with it."""
    new, ended = [_ID] * num_steps, []
    running = [one for one in stretch.sequences if one.pages]
    _take_pages(running, kv, num_steps, limits.config.kv_page_tokens)
    for one in running:
        one.num_cached = num_cached = one.num_cached + num_steps
        one.tokens += new
        if num_cached + 1 >= len(one.request.prompt) + one.request.sampling.max_tokens:
            ended.append(one)
    return ended


def _take_pages(decoding: Iterable[Sequence], kv: PagePool, num_steps: int, page_tokens: int) -> None:
    for one in decoding:
        num_missing = -(-(one.num_cached + num_steps) // page_tokens) - len(one.pages)
        if num_missing > 0:
            one.pages += kv.take(num_missing)


def _num_pages(lengths: Iterable[int], num_steps: int, page_tokens: int) -> int:
    """What sequences with so many tokens hold after so many steps."""
    most = num_steps + page_tokens - 2
    return sum([(length + most) // page_tokens for length in lengths])
