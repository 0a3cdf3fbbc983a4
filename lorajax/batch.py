"""A step plan as padded arrays. Owns: buckets, and the work lists of a step. Does not: know weights or devices.

Everything is numpy: one bucket is one shape, so a plan never compiles anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import jax
import numpy as np

from lorajax.config import EngineConfig
from lorajax.plan import Chunk
from pallas_kernels.work import TILE_TOKENS, AttentionWork, LoraWork, padded
from pallas_kernels.xla_attention import BLOCK_TOKENS, DECODE_ROWS

MAX_SET_PAGES = 128
"""Adapter pages of one request's weighted set: the sum of its ranks is at most 1024."""


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """The shapes of one compiled step."""

    num_tokens: int
    num_sequences: int
    """Sequences that take part; each may sample one token."""
    num_tiles: int
    """Prefill tiles; 0 in a step that only decodes."""


def buckets(config: EngineConfig) -> tuple[Bucket, ...]:
    """The shapes that are compiled before READY: a few for decoding, a few for steps with prefill."""
    decode = _ladder(8, 2, config.max_sequences)
    mixed = _ladder(config.max_sequences + config.interleaved_tokens, 4, config.max_batch_tokens)
    tiles = [-(-size // TILE_TOKENS) + min(size // 2, config.max_sequences) for size in mixed]
    return (
        *(Bucket(size, size, 0) for size in decode),
        *(Bucket(size, config.max_sequences, num_tiles) for size, num_tiles in zip(mixed, tiles, strict=True)),
    )


def _ladder(first: int, factor: int, last: int) -> list[int]:
    """first, first * factor … below last, then last."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= factor
    return [*sizes, last]


def fitting(chunks: Sequence[Chunk], known: Sequence[Bucket]) -> Bucket:
    """The smallest bucket that holds these chunks."""
    num_tokens = sum(len(chunk.tokens) for chunk in chunks)
    num_tiles = sum(-(-len(chunk.tokens) // TILE_TOKENS) for chunk in chunks if len(chunk.tokens) > 1)
    return next(
        bucket
        for bucket in sorted(known)
        if bucket.num_tokens >= num_tokens and bucket.num_sequences >= len(chunks) and bucket.num_tiles >= num_tiles
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The arrays of one step."""

    bucket: Bucket
    tokens: jax.Array  # [token] int32
    last_token: jax.Array  # [sequence] int32, the token whose logits each chunk would sample from
    attention: AttentionWork
    lora: LoraWork | None
    """None where no chunk uses an adapter: the base-only step runs."""


def batch(chunks: Sequence[Chunk], bucket: Bucket, page_tokens: int, table_pages: int) -> Batch:
    """Lay the chunks of a plan out in a bucket, in the plan's order, so that runs stay neighbours."""
    counts = [len(chunk.tokens) for chunk in chunks]
    firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Batch(
        bucket=bucket,
        tokens=padded([token for chunk in chunks for token in chunk.tokens], (bucket.num_tokens,), np.int32),
        last_token=padded(firsts[1:] - 1, (bucket.num_sequences,), np.int32),
        attention=_attention_work(chunks, firsts, bucket, page_tokens, table_pages),
        lora=_lora_work(chunks, firsts, bucket) if any(chunk.adapter_pages for chunk in chunks) else None,
    )


def example(bucket: Bucket, page_tokens: int, table_pages: int) -> Batch:
    """A batch of a bucket's shapes with nothing in it, adapters included: what a step is compiled for."""
    empty = batch((), bucket, page_tokens, table_pages)
    return replace(empty, lora=_lora_work((), np.zeros(1, np.int32), bucket))


def _attention_work(
    chunks: Sequence[Chunk], firsts: np.ndarray, bucket: Bucket, page_tokens: int, table_pages: int
) -> AttentionWork:
    row = np.zeros(bucket.num_tokens, np.int32)
    position = np.zeros(bucket.num_tokens, np.int32)
    slot = np.zeros(bucket.num_tokens, np.int32)
    table = np.zeros((bucket.num_sequences, table_pages), np.int32)
    for i, chunk in enumerate(chunks):
        mine = slice(firsts[i], firsts[i + 1])
        table[i, : len(chunk.kv_pages)] = chunk.kv_pages
        row[mine] = i
        position[mine] = at = np.arange(chunk.start, chunk.start + len(chunk.tokens))
        slot[mine] = table[i, at // page_tokens] * page_tokens + at % page_tokens
    alone = [i for i, chunk in enumerate(chunks) if len(chunk.tokens) == 1]
    alone.sort(key=lambda i: -chunks[i].start)
    tiles = [
        (firsts[i] + done, min(TILE_TOKENS, len(chunk.tokens) - done))
        for i, chunk in enumerate(chunks)
        if len(chunk.tokens) > 1
        for done in range(0, len(chunk.tokens), TILE_TOKENS)
    ]
    decode_rows = -(-bucket.num_sequences // DECODE_ROWS) * DECODE_ROWS
    return AttentionWork(
        row=padded(row, row.shape, np.int32),
        position=padded(position, position.shape, np.int32),
        slot=padded(slot, slot.shape, np.int32),
        table=padded(table, table.shape, np.int32),
        decode_token=padded(firsts[alone], (decode_rows,), np.int32),
        num_decode=padded(len(alone), (), np.int32),
        tile_token=padded([first for first, _ in tiles], (bucket.num_tiles,), np.int32),
        tile_count=padded([count for _, count in tiles], (bucket.num_tiles,), np.int32),
        num_tiles=padded(len(tiles), (), np.int32),
    )


def _lora_work(chunks: Sequence[Chunk], firsts: np.ndarray, bucket: Bucket) -> LoraWork:
    pages: list[int] = []
    starts: list[int] = []
    counts: list[int] = []
    weights: list[float] = []
    for adapter_pages, run in groupby(range(len(chunks)), key=lambda i: chunks[i].adapter_pages):
        members = list(run)
        start, end = int(firsts[members[0]]), int(firsts[members[-1] + 1])
        for page, weight in adapter_pages:
            pages.append(page)
            starts.append(start)
            counts.append(end - start)
            weights.append(weight)
    size = (bucket.num_sequences * MAX_SET_PAGES,)
    return LoraWork(
        page=padded(pages, size, np.int32),
        start=padded(starts, size, np.int32),
        count=padded(counts, size, np.int32),
        weight=padded(weights, size, np.float32),
        num_items=padded(len(pages), (), np.int32),
    )


def table_pages(max_model_len: int, page_tokens: int) -> int:
    """Columns of the page table: the longest context, in whole attention blocks."""
    block_pages = max(1, BLOCK_TOKENS // page_tokens)
    return -(-max_model_len // (block_pages * page_tokens)) * block_pages
