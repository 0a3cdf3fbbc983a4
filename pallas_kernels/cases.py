"""Named work for every kernel. Owns: the cases tests and benchmarks share, and their seeded arrays.

Does not: run or compare anything. A case names a rank mix or contexts; widths and dtype are the caller's. Sizes are
mostly the defaults, so that few programs serve many cases.
"""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from pallas_kernels.work import ROWS, TILE_TOKENS, AttentionWork, LoraWork, padded
from pallas_kernels.xla_attention import BLOCK_TOKENS, DECODE_ROWS

BASE: tuple[tuple[int, float], ...] = ()
"""The adapter set of a run that uses none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraCase:
    """One step's runs, first token first; tokens past the last run use no adapter."""

    name: str
    ranks: tuple[int, ...]
    """Rank of each adapter of the step."""
    runs: tuple[tuple[int, tuple[tuple[int, float], ...]], ...]
    """(tokens, ((adapter, weight), …)) of each run."""
    num_tokens: int
    """Tokens of the step, padding included."""
    num_items: int = 192
    """Items of the work list, padding included."""
    num_pages: int = 136
    """Pages of the pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraArrays:
    """A LoRA case as arrays."""

    x: np.ndarray  # [token, in]
    a: np.ndarray  # [page, row, in]; page 0 is zeros, as are the rows past an adapter's rank
    b: np.ndarray  # [page, row, out]
    work: LoraWork


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase:
    """One step's sequences in order; tokens past the last are padding."""

    name: str
    sequences: tuple[tuple[int, int], ...]
    """(tokens already cached, tokens of this step) of each sequence."""
    num_tokens: int = 96
    """Tokens of the step, padding included."""
    num_sequences: int = 8
    num_tiles: int = 3
    num_pages: int = 64
    """Pages of the pool."""
    kv_heads: int = 2
    group: int = 2
    """Query heads for each key/value head."""
    head_dim: int = 16
    page_tokens: int = 16
    window: int | None = None
    max_model_len: int = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionArrays:
    """An attention case as arrays; `kv` has a few pages that belong to nobody."""

    q: np.ndarray  # [token, kv_head, group, head_dim]
    kv: np.ndarray  # [page, slot, 2, kv_head, head_dim]
    work: AttentionWork


LORA_CASES = (
    LoraCase(name="all rank 8", ranks=(8,) * 32, runs=tuple((1, ((i, 1.0),)) for i in range(32)), num_tokens=32),
    LoraCase(name="all rank 128", ranks=(128,) * 8, runs=tuple((4, ((i, 1.0),)) for i in range(8)), num_tokens=32),
    LoraCase(
        name="31 of rank 8, one of rank 128",
        ranks=(8,) * 31 + (128,),
        runs=tuple((1, ((i, 1.0),)) for i in range(32)),
        num_tokens=32,
    ),
    LoraCase(name="one token", ranks=(16,), runs=((1, ((0, 1.0),)),), num_tokens=1, num_items=128),
    LoraCase(name="no adapter at all", ranks=(8,), runs=((20, BASE),), num_tokens=32),
    LoraCase(
        name="unaligned runs",
        ranks=(8, 16, 64),
        runs=((3, BASE), (7, ((0, 1.0),)), (1, ((1, 1.0),)), (37, ((2, 1.0),)), (5, BASE), (11, ((0, 1.0),))),
        num_tokens=64,
    ),
    LoraCase(name="rank 12", ranks=(12, 12), runs=((5, ((0, 1.0),)), (6, ((1, 1.0),))), num_tokens=32),
    LoraCase(
        name="rank 1", ranks=(1, 1, 8), runs=((2, ((1, 1.0),)), (1, ((0, 1.0),)), (3, ((2, 1.0),))), num_tokens=32
    ),
    LoraCase(
        name="mixtures",
        ranks=(8, 20, 64),
        runs=(
            (2, ((0, 0.5), (1, 0.25))),
            (3, ((2, -1.5),)),
            (4, ((0, 1.0), (2, -0.5), (0, 2.0))),
            (1, ((1, 0.0),)),
        ),
        num_tokens=32,
    ),
    LoraCase(
        name="prefill and decode",
        ranks=(8, 32, 128),
        runs=((1, BASE), (6, ((0, 1.0),)), (41, ((1, 1.0),)), (1, ((2, 1.0),))),
        num_tokens=64,
    ),
)

ATTENTION_CASES = (
    AttentionCase(name="decode only", sequences=tuple((n, 1) for n in (0, 1, 15, 16, 17, 31, 40))),
    AttentionCase(name="uneven contexts", sequences=((3, 1), (127, 1), (128, 1), (300, 1), (0, 1))),
    AttentionCase(name="chunk in the middle", sequences=((37, 70),)),
    AttentionCase(name="prefill and decode", sequences=((50, 1), (0, 20), (131, 1), (5, 2), (60, 33), (9, 1))),
    AttentionCase(name="mostly padding", sequences=((30, 1),)),
    AttentionCase(name="one token", sequences=((0, 1),), num_tokens=1, num_sequences=1, num_tiles=0),
    AttentionCase(name="9 heads on 3, of 64", sequences=((77, 1), (0, 12)), kv_heads=3, group=3, head_dim=64),
    AttentionCase(
        name="window below a page, 4 heads on 1, of 40",
        sequences=((200, 1), (20, 1), (2, 1), (130, 30)),
        kv_heads=1,
        group=4,
        head_dim=40,
        window=5,
    ),
    AttentionCase(
        name="window above a block, 8 heads on 8, of 6, pages of 5",
        sequences=((340, 1), (140, 1), (7, 1), (200, 70)),
        kv_heads=8,
        group=1,
        head_dim=6,
        page_tokens=5,
        window=150,
        num_pages=160,
    ),
)


def lora_arrays(case: LoraCase, widths: tuple[int, int], dtype: np.dtype, seed: int) -> LoraArrays:
    """Seeded arrays of a case for a layer of `widths` (in, out); outputs have a deviation near 1."""
    rng = np.random.default_rng(seed)
    num_pages = [-(-rank // ROWS) for rank in case.ranks]
    numbers = 1 + rng.permutation(case.num_pages - 1)  # more than are needed: the rest are nobody's
    ends = list(accumulate(num_pages))
    pages_of = [numbers[end - size : end] for end, size in zip(ends, num_pages, strict=True)]
    a, b = (np.zeros((case.num_pages, ROWS, width)) for width in widths)
    a[numbers], b[numbers] = rng.normal(size=a[1:].shape), rng.normal(size=b[1:].shape)
    for rank, pages in zip(case.ranks, pages_of, strict=True):
        b[pages] /= np.sqrt(rank * widths[0])
        empty = len(pages) * ROWS - rank
        a[pages[-1], ROWS - empty :] = b[pages[-1], ROWS - empty :] = 0
    x = rng.normal(size=(case.num_tokens, widths[0]))
    work = _lora_work(case, pages_of)
    return LoraArrays(x=x.astype(dtype), a=a.astype(dtype), b=b.astype(dtype), work=work)


def _lora_work(case: LoraCase, pages_of: list[np.ndarray]) -> LoraWork:
    items: list[tuple[int, int, int, float]] = []
    first = 0
    for count, adapters in case.runs:
        items += [(page, first, count, weight) for adapter, weight in adapters for page in pages_of[adapter]]
        first += count
    page, start, count_of, weight_of = ([item[field] for item in items] for field in range(4))
    size = (case.num_items,)
    return LoraWork(
        page=padded(page, size, np.int32),
        start=padded(start, size, np.int32),
        count=padded(count_of, size, np.int32),
        weight=padded(weight_of, size, np.float32),
        num_items=padded(len(items), (), np.int32),
    )


def attention_arrays(case: AttentionCase, dtype: np.dtype, seed: int) -> AttentionArrays:
    """Seeded queries, pages in random order and work lists of a case."""
    rng = np.random.default_rng(seed)
    num_pages = [-(-(cached + count) // case.page_tokens) for cached, count in case.sequences]
    numbers = 1 + rng.permutation(case.num_pages - 1)  # more than are needed: the rest are nobody's
    ends = list(accumulate(num_pages))
    pages_of = [numbers[end - size : end] for end, size in zip(ends, num_pages, strict=True)]
    kv = rng.normal(size=(case.num_pages, case.page_tokens, 2, case.kv_heads, case.head_dim))
    q = rng.normal(size=(case.num_tokens, case.kv_heads, case.group, case.head_dim))
    return AttentionArrays(q=q.astype(dtype), kv=kv.astype(dtype), work=_attention_work(case, pages_of))


def _attention_work(case: AttentionCase, pages_of: list[np.ndarray]) -> AttentionWork:
    firsts = [0, *accumulate(count for _, count in case.sequences[:-1])]
    row, position, slot = (np.zeros(case.num_tokens, np.int32) for _ in range(3))
    block_pages = max(1, BLOCK_TOKENS // case.page_tokens)
    table_pages = -(-case.max_model_len // (case.page_tokens * block_pages)) * block_pages
    table = np.zeros((case.num_sequences, table_pages), np.int32)
    for i, (cached, count) in enumerate(case.sequences):
        mine = slice(firsts[i], firsts[i] + count)
        table[i, : len(pages_of[i])] = pages_of[i]
        row[mine] = i
        position[mine] = at = np.arange(cached, cached + count)
        slot[mine] = table[i, at // case.page_tokens] * case.page_tokens + at % case.page_tokens
    spans = list(zip(firsts, case.sequences, strict=True))
    alone = sorted((-cached, first) for first, (cached, count) in spans if count == 1)
    tiles = [
        (first + done, min(TILE_TOKENS, count - done))
        for first, (_, count) in spans
        if count > 1
        for done in range(0, count, TILE_TOKENS)
    ]
    decode_rows = -(-case.num_sequences // DECODE_ROWS) * DECODE_ROWS
    return AttentionWork(
        row=padded(row, row.shape, np.int32),
        position=padded(position, position.shape, np.int32),
        slot=padded(slot, slot.shape, np.int32),
        table=padded(table, table.shape, np.int32),
        decode_token=padded([first for _, first in alone], (decode_rows,), np.int32),
        num_decode=padded(len(alone), (), np.int32),
        tile_token=padded([first for first, _ in tiles], (case.num_tiles,), np.int32),
        tile_count=padded([count for _, count in tiles], (case.num_tiles,), np.int32),
        num_tiles=padded(len(tiles), (), np.int32),
    )
