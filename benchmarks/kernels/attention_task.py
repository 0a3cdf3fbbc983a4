"""Attention decode's turn on the device. Owns: that one step of long contexts. Does not: measure other shapes."""

from collections.abc import Iterator
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.kernels.bank import TOLERANCE, error_of
from benchmarks.kernels.cases import ATTENTION
from benchmarks.kernels.timing import timed
from benchmarks.kernels.turns import Found, Task
from pallas_kernels.mosaic_attention import paged_attention
from pallas_kernels.reference import paged_attention as reference_attention
from pallas_kernels.work import AttentionWork, padded

SEQUENCES, CONTEXT = 64, 4096
_KV_HEADS, _GROUP, _HEAD_DIM, _PAGE_TOKENS = 8, 4, 128, 64
_MAX_LEN = 8192
_LAYERS = 4
"""Each with a KV cache of its own, which is many times the L2."""


def decode_work(sequences: int, context: int, page_tokens: int, max_len: int, seed: int) -> AttentionWork:
    """One new token for each sequence after `context` - 1 of them; pages in random order, page 0 nobody's."""
    need = -(-context // page_tokens)
    numbers = 1 + np.random.default_rng(seed).permutation(sequences * need)
    table = padded(numbers.reshape(sequences, need), (sequences, max_len // page_tokens), np.int32)
    last = context - 1
    slot = np.asarray(table)[:, last // page_tokens] * page_tokens + last % page_tokens
    every = np.arange(sequences)
    none = np.zeros(0)
    return AttentionWork(
        row=padded(every, every.shape, np.int32),
        position=padded(np.full(sequences, last), every.shape, np.int32),
        slot=padded(slot, every.shape, np.int32),
        table=table,
        decode_token=padded(every, every.shape, np.int32),
        num_decode=padded(sequences, (), np.int32),
        tile_token=padded(none, (0,), np.int32),
        tile_count=padded(none, (0,), np.int32),
        num_tiles=padded(0, (), np.int32),
    )


def tasks() -> Iterator[Task]:
    """The one task."""
    yield Task(ATTENTION, 120.0, _measure)


def _measure() -> Found:
    work = decode_work(SEQUENCES, CONTEXT, _PAGE_TOKENS, _MAX_LEN, seed=0)
    num_pages = SEQUENCES * CONTEXT // _PAGE_TOKENS + 1
    shape = (num_pages, _PAGE_TOKENS, 2, _KV_HEADS, _HEAD_DIM)
    draw = jax.jit(lambda key, shape: jax.random.normal(key, shape, jnp.bfloat16), static_argnums=1)
    caches = [draw(jax.random.key(i), shape) for i in range(_LAYERS)]
    queries = draw(jax.random.key(_LAYERS), (SEQUENCES, _KV_HEADS, _GROUP, _HEAD_DIM))
    on_device = jax.tree.map(jnp.asarray, work)

    @jax.jit
    def layers(q: jax.Array, caches: list[jax.Array], work: AttentionWork) -> list[jax.Array]:
        outs = []
        for kv in caches:
            outs.append(paged_attention(q, kv, work, None))
            q, outs[-1] = lax.optimization_barrier((q, outs[-1]))  # or XLA makes one launch of all layers' merges
        return outs

    error = _error(queries, caches[-1], on_device, layers(queries, caches, on_device)[-1])
    if not error <= TOLERANCE["bfloat16"]:
        return {"relative_error": error, "error": f"differs from the reference by {error:.2g}"}
    timing = timed(lambda _: layers(queries, caches, on_device), _LAYERS)
    kv_bytes = SEQUENCES * CONTEXT * 2 * _KV_HEADS * _HEAD_DIM * 2
    return {"relative_error": error, "bytes": kv_bytes, **asdict(timing)}


def _error(q: jax.Array, kv: jax.Array, work: AttentionWork, actual: jax.Array) -> float:
    """Against the reference, of a few sequences: it gathers what they read."""
    few = np.array([0, SEQUENCES // 2, SEQUENCES - 1])
    alone = replace(work, row=jnp.arange(len(few)), position=work.position[few], table=work.table[few])
    wanted = jax.jit(reference_attention, static_argnums=3)(q[few], kv, alone, None)
    return error_of([np.asarray(actual[few], np.float32)], [np.asarray(wanted, np.float32)])
