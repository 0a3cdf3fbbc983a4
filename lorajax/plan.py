"""Records of one step, from the host half to the device half. Owns: their fields. Does not: decide or act.

The engine carries a plan out in this order: releases, fetches (started, not waited for), writes, chunks. Carrying the
same plan out twice gives the same device state.
"""

from dataclasses import dataclass

from lorajax.sequence import Sequence
from lorajax.spec import Failed, Request, Version
from lorajax.stretch import Stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class PageWrite:
    """Write page `index` of an adapter's host arrays into device page `page`."""

    version: Version
    index: int
    page: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Read the adapter from its store into host memory, then report `adapter_fetched` or `fetch_failed`."""

    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Forget the adapter's host arrays."""

    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The part of one sequence that one step computes."""

    request: Request
    tokens: tuple[int, ...]
    """Ids fed in this step; one when decoding."""
    start: int
    """Position of tokens[0]."""
    kv_pages: tuple[int, ...]
    """Page of position p is kv_pages[p // kv_page_tokens]; covers start + len(tokens)."""
    adapter_pages: tuple[tuple[int, float], ...]
    """(device page, weight) of every page of the weighted set, in version and rank order; () for the base."""
    output: tuple[int, ...]
    """Tokens generated so far where sampling has penalties, else ()."""
    num_output: int
    """Number of tokens generated so far: with the seed, what a draw depends on."""
    samples: bool
    """Whether the logits of the last token give the next one."""


def chunk_of(sequence: Sequence, end: int) -> Chunk:
    """The tokens of a sequence that are not cached yet, up to position `end`; it has pages for them."""
    start = sequence.num_cached
    return Chunk(
        request=sequence.request,
        tokens=tuple(sequence.tokens[start:end]),
        start=start,
        kv_pages=tuple(sequence.pages),
        adapter_pages=sequence.adapter_pages,
        output=sequence.output if sequence.request.sampling.has_penalties else (),
        num_output=sequence.num_output,
        samples=end == len(sequence.tokens),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Everything one step does. Chunks with one adapter set are neighbours: base first, decoding first in each run."""

    number: int
    chunks: tuple[Chunk, ...]
    writes: tuple[PageWrite, ...]
    fetches: tuple[Fetch, ...]
    releases: tuple[Release, ...]
    failed: tuple[Failed, ...]
    """Requests given up while planning; they are in no chunk."""
    decoding: Stretch | None = None
    """What a brief plan does not spell out in chunks."""

    @property
    def num_steps(self) -> int:
        """For how many steps it may stand: more than one only where it is brief and all it does is to decode."""
        is_more = self.chunks or self.writes or self.fetches or self.releases or self.failed
        return 1 if is_more or self.decoding is None else self.decoding.num_steps
