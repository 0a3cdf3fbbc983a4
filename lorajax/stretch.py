"""Steps that are alike, taken at once. Owns: how far what runs only decodes, and going there.

Does not: know time, or what waits. An engine computes each token and sends it; a simulator has no use for that, and no
token of its ends a completion.
"""

from collections.abc import Sequence as Row
from dataclasses import dataclass, field
from operator import attrgetter

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


def stretch_of(running: Row[Sequence], limits: EngineLimits, kv: PagePool) -> Stretch | None:
    """The decoding of all that only decode, as long as there are pages; takes those of the first step.

    None where none does, or where pages are so few that it matters who is first.
    """
    decoding = [one for one in running if one.num_cached + 1 == len(one.tokens) > len(one.request.prompt)]
    if not decoding:
        return None
    others = sorted({*running} - {*decoding}, key=attrgetter("order")) if len(decoding) < len(running) else []
    page_tokens, num_free = limits.config.kv_page_tokens, kv.num_free
    if others:  # whatever they read in this step
        num_free -= limits.num_kv_pages_of(limits.config.max_batch_tokens) + len(others)
    num_steps = min([one.most_tokens - len(one.tokens) for one in decoding])
    while num_steps and _num_missing(decoding, num_steps, page_tokens, num_free) > num_free:
        num_steps //= 2
    if not num_steps:
        return None
    context_tokens = sum([len(one.tokens) for one in decoding])
    for one in decoding:
        if one.num_cached == len(one.pages) * page_tokens:
            one.pages += kv.take(1)
    return Stretch(sequences=tuple(decoding), others=tuple(others), context_tokens=context_tokens, num_steps=num_steps)


def advance(stretch: Stretch, limits: EngineLimits, kv: PagePool, num_steps: int, *, goes_on: bool) -> list[Sequence]:
    """Give each that still runs so many tokens, and the pages for them; returns those that have ended with it.

    Where it goes on, also the page of the step that has begun.
    """
    new, ended, page_tokens = [_ID] * num_steps, [], limits.config.kv_page_tokens
    for one in stretch.sequences:
        if not (pages := one.pages):
            continue
        one.num_cached = num_cached = one.num_cached + num_steps
        one.tokens += new
        if (num_held := num_cached + goes_on) > len(pages) * page_tokens:
            pages += kv.take(-(-num_held // page_tokens) - len(pages))
        if num_cached + 1 >= one.most_tokens:
            ended.append(one)
    return ended


def _num_missing(decoding: Row[Sequence], num_steps: int, page_tokens: int, num_free: int) -> int:
    """Pages that so many steps take; roughly, and too many, where that is few enough."""
    most = len(decoding) * (num_steps // page_tokens + 1)
    if most <= num_free:
        return most
    return sum([-(-(one.num_cached + num_steps) // page_tokens) - len(one.pages) for one in decoding])
