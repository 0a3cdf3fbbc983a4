"""Ragged paged attention for XLA on CPU: loops over KV blocks with an online softmax. Owns: that formulation.

Cost follows the real context lengths: decode rows go four at a time, longest first, so short rows do not wait for
long ones; prefill goes in tiles of neighbouring tokens of one sequence. Source of the online softmax: Milakov &
Gimelshein 2018 (arXiv 1805.02867); of the tiling: Dao et al. 2022 (arXiv 2205.14135).
"""

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.work import TILE_TOKENS, AttentionWork

BLOCK_TOKENS = 128
"""Keys of one loop turn."""

DECODE_ROWS = 4
"""Decoding sequences that go through the loop together."""

_MASKED = -1e30


def paged_attention(q: jax.Array, kv: jax.Array, work: AttentionWork, window: int | None) -> jax.Array:
    """Same meaning as `reference.paged_attention`; shapes as there. Needs a table of whole blocks."""
    tile = min(TILE_TOKENS, q.shape[0])
    padded = jnp.pad(q, ((0, tile), (0, 0), (0, 0), (0, 0)))
    out = jnp.zeros_like(padded)
    if work.tile_token.shape[0]:
        out = lax.fori_loop(
            0, work.num_tiles, lambda i, out: _prefill_tile(i, tile, out, padded, kv, work, window), out
        )
    groups = (work.num_decode + DECODE_ROWS - 1) // DECODE_ROWS
    out = lax.fori_loop(0, groups, lambda i, out: _decode_rows(i, out, q, kv, work, window), out)
    return out[: q.shape[0]]


def _prefill_tile(
    i: jax.Array, tile: int, out: jax.Array, q: jax.Array, kv: jax.Array, work: AttentionWork, window: int | None
) -> jax.Array:
    first = work.tile_token[i]
    queries = lax.dynamic_slice_in_dim(q, first, tile, 0)
    row, start = work.row[first], work.position[first]
    table = lax.dynamic_slice_in_dim(work.table, row, 1, 0)
    position = (start + jnp.arange(tile))[None, :]
    last = start + work.tile_count[i] - 1
    result = _attend(queries[None], kv, table, position, start[None], last[None], window)[0]
    old = lax.dynamic_slice_in_dim(out, first, tile, 0)
    live = (jnp.arange(tile) < work.tile_count[i])[:, None, None, None]
    return lax.dynamic_update_slice_in_dim(out, jnp.where(live, result, old), first, 0)


def _decode_rows(
    i: jax.Array, out: jax.Array, q: jax.Array, kv: jax.Array, work: AttentionWork, window: int | None
) -> jax.Array:
    rows = min(DECODE_ROWS, work.decode_token.shape[0])
    token = lax.dynamic_slice_in_dim(work.decode_token, i * rows, rows, 0)
    live = i * rows + jnp.arange(rows) < work.num_decode
    position = jnp.where(live, work.position[token], 0)
    table = work.table[jnp.where(live, work.row[token], 0)]
    result = _attend(q[token][:, None], kv, table, position[:, None], position, position, window)[:, 0]
    target = jnp.where(live, token, out.shape[0])
    return out.at[target].set(result, mode="drop")


def _attend(
    q: jax.Array,
    kv: jax.Array,
    table: jax.Array,
    position: jax.Array,
    first: jax.Array,
    last: jax.Array,
    window: int | None,
) -> jax.Array:
    """q[row, token, kv_head, group, head_dim] over its row's keys, block by block; same shape and dtype as q.

    position[row, token] is each query's own; first[row], last[row] bound them, and so the blocks that are read.
    """
    rows, tokens, kv_heads, group, head_dim = q.shape
    page_tokens = kv.shape[1]
    block_pages = max(1, BLOCK_TOKENS // page_tokens)
    block_tokens = block_pages * page_tokens
    q = q.transpose(0, 2, 3, 1, 4).reshape(rows, kv_heads, group * tokens, head_dim)
    position = jnp.tile(position, (1, group))[:, None, :, None]

    def block(j: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        top, total, sums = carry
        pages = lax.dynamic_slice(table, (0, j * block_pages), (rows, block_pages))
        both = kv[pages].reshape(rows, block_tokens, 2, kv_heads, head_dim)
        scores = jnp.einsum("rhqd,rshd->rhqs", q, both[:, :, 0], preferred_element_type=jnp.float32) * head_dim**-0.5
        at = (j * block_tokens + jnp.arange(block_tokens))[None, :]
        seen = _within(at[:, None, None], position, position, window)
        scores = jnp.where(seen, scores, _MASKED)
        new_top = jnp.maximum(top, scores.max(-1))
        shrink = jnp.exp(top - new_top)
        weights = jnp.where(seen, jnp.exp(scores - new_top[..., None]), 0.0)
        # What nobody here sees may be NaN, and 0 * NaN is NaN.
        values = jnp.where(_within(at, first[:, None], last[:, None], window)[:, :, None, None], both[:, :, 1], 0.0)
        added = jnp.einsum("rhqs,rshd->rhqd", weights.astype(q.dtype), values, preferred_element_type=jnp.float32)
        return new_top, total * shrink + weights.sum(-1), sums * shrink[..., None] + added

    zero = jnp.zeros((rows, kv_heads, group * tokens), jnp.float32)
    start = jnp.int32(0) if window is None else jnp.maximum(jnp.min(first) - window + 1, 0) // block_tokens
    carry = (zero + _MASKED, zero, jnp.zeros((rows, kv_heads, group * tokens, head_dim), jnp.float32))
    _, total, sums = lax.fori_loop(start, jnp.max(last) // block_tokens + 1, block, carry)
    out = (sums / jnp.maximum(total, 1e-30)[..., None]).reshape(rows, kv_heads, group, tokens, head_dim)
    return out.transpose(0, 3, 1, 2, 4).astype(q.dtype)


def _within(at: jax.Array, first: jax.Array, last: jax.Array, window: int | None) -> jax.Array:
    """Whether positions `at` are seen by any query of positions first … last."""
    return at <= last if window is None else (at <= last) & (at > first - window)
