"""Ragged paged attention for Hopper GPUs in Pallas Mosaic. Owns: how a step is cut into CUDA blocks, merging splits.

Two launches of one kernel (mosaic_attention_kernel.py), for tokens that are alone in their sequence and for tiles of
neighbouring ones, then one merge where keys are split. Shapes alone decide the cut, so a token's answer does not depend
on the others of its step; counts, page tables and positions are read on the device. Source of the splits: Dao et al.
2023, "Flash-Decoding".
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.mosaic_attention_kernel import (
    ROWS,
    WEIGHT_COLUMNS,
    Memory,
    Multiply,
    Tiling,
    run_unit,
    tensor_cores,
)
from pallas_kernels.work import TILE_TOKENS, AttentionWork

HEAD_DIMS = (64, 128)
"""Head sizes that are compiled and checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The sizes that a GPU would have us change, and nothing else depends on."""

    block_tokens: int = 64
    """Keys of one turn of the loop."""
    decode_ring_bytes: int = 64 * 1024
    """Shared memory for keys and values. Two CUDA blocks share a multiprocessor: one loads while the other computes."""
    tile_ring_bytes: int = 128 * 1024
    """The same for tiles, where one CUDA block has a multiprocessor to itself."""
    split_tokens: int = 512
    """Keys of one split at least: fewer cost more in merging than they win."""
    num_parts: int = 4096
    """Wanted results of (token, key/value head, split): enough to keep 132 multiprocessors evenly busy."""
    max_splits: int = 32
    """More make the merge, which is unrolled, slow to compile."""


TUNED = Tuning()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Units:
    """The work of one launch: `num` runs of neighbouring tokens of one sequence; entries past them are padding."""

    token: jax.Array  # [unit] int32, first token
    count: jax.Array  # [unit] int32, tokens; not read where blocks take one
    num: jax.Array  # [] int32


def paged_attention(q: jax.Array, kv: jax.Array, work: AttentionWork, window: int | None) -> jax.Array:
    """Same meaning as `reference.paged_attention`, but rows of padding tokens are whatever lay in memory.

    Cost: the keys and values of decoding tokens are read once; those of a tile of `group` query heads once for every
    128 / group tokens, mostly from L2. Pages of 64 tokens are one TMA box each; of 16 they are four.
    Raises: NotImplementedError for shapes and dtypes that the kernel is not made for.
    """
    return attend(q, kv, work, window, TUNED, tensor_cores)


def attend(
    q: jax.Array, kv: jax.Array, work: AttentionWork, window: int | None, tuning: Tuning, multiply: Multiply
) -> jax.Array:
    """`paged_attention` with other sizes, or with another product than wgmma where that cannot be interpreted."""
    _check(q, kv, work, tuning)
    splits, split_tokens = _splits(q, kv, work, tuning)
    num_tokens, kv_heads, group, head_dim = q.shape
    if splits > 1:
        shape = (splits, num_tokens, kv_heads, group, head_dim + WEIGHT_COLUMNS)
        out = jax.new_ref(jnp.empty(shape, jnp.float32))
    else:
        out = jax.new_ref(jnp.empty(q.shape, q.dtype))
    block_bytes = 2 * tuning.block_tokens * head_dim * q.dtype.itemsize
    tiling = Tiling(
        tokens=1,
        warpgroups=1,
        pieces=1,
        splits=splits,
        split_tokens=split_tokens,
        block_tokens=tuning.block_tokens,
        stages=max(2, tuning.decode_ring_bytes // block_bytes),
        window=window,
        multiply=multiply,
    )
    alone = _Units(token=work.decode_token, count=work.decode_token, num=work.num_decode)  # one token each
    _launch(q, kv, out, work, alone, tiling)
    if work.tile_token.shape[0]:
        tokens = 1 << (ROWS // group).bit_length() - 1
        warpgroups = min(2, TILE_TOKENS // tokens)
        tiling = replace(
            tiling,
            tokens=tokens,
            warpgroups=warpgroups,
            pieces=TILE_TOKENS // (tokens * warpgroups),
            stages=max(2, tuning.tile_ring_bytes // block_bytes),
        )
        _launch(q, kv, out, work, _Units(token=work.tile_token, count=work.tile_count, num=work.num_tiles), tiling)
    done = jax.freeze(out)
    return _merged(done, work.position, split_tokens, window).astype(q.dtype) if splits > 1 else done


def _launch(q: jax.Array, kv: jax.Array, out: jax.Ref, work: AttentionWork, units: _Units, tiling: Tiling) -> None:
    """Attend for the tokens of the units and write their rows of `out`, and no others.

    out[token, kv_head, group, head_dim] in q.dtype; with splits float32 [split, token, kv_head, group, head_dim +
    WEIGHT_COLUMNS], where ranges without a key that a unit sees are not written.
    """
    _, kv_heads, _, head_dim = q.shape
    tiled, swizzled = plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)  # type: ignore[abstract]  # not so
    ring = plgpu.SMEM((2 * tiling.stages, tiling.block_tokens, head_dim), q.dtype, transforms=(tiled, swizzled))
    results = plgpu.SMEM((tiling.warpgroups, ROWS, out.shape[-1]), out.dtype)

    def body(*refs: Any) -> None:  # noqa: ANN401  # one of them is a union, for which JAX has no public type
        run_unit(tiling, Memory(*refs[5:9], *refs[9], *refs[10:]), *refs[:5])

    plgpu.kernel(
        body,
        grid=(tiling.splits, units.token.shape[0], tiling.pieces, kv_heads),
        grid_names=("split", "unit", "piece", "head"),  # the last runs fastest: heads of one page go together
        num_threads=tiling.warpgroups,
        thread_name="warpgroup",
        scratch_types=[
            plgpu.RefUnion(ring, results),
            plgpu.SMEM((tiling.warpgroups, ROWS, head_dim), q.dtype),
            plgpu.Barrier(num_arrivals=max(1, tiling.block_tokens // kv.shape[1]), num_barriers=2 * tiling.stages),
            plgpu.Barrier(num_arrivals=tiling.warpgroups, num_barriers=2 * tiling.stages),
            plgpu.Barrier(num_arrivals=tiling.tokens, num_barriers=tiling.warpgroups),
            plgpu.Barrier(num_arrivals=tiling.warpgroups, num_barriers=1),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    )(units.num.reshape(1), units.token, units.count, work.row, work.position, work.table, q, kv, out)


def _splits(q: jax.Array, kv: jax.Array, work: AttentionWork, tuning: Tuning) -> tuple[int, int]:
    """(splits, keys of each): enough parts for the GPU, none shorter than `split_tokens`, none longer than need be."""
    table_tokens = work.table.shape[1] * kv.shape[1]
    wanted = min(
        -(-tuning.num_parts // (q.shape[0] * q.shape[1])), -(-table_tokens // tuning.split_tokens), tuning.max_splits
    )
    blocks = -(-table_tokens // (wanted * tuning.block_tokens))
    split_tokens = blocks * tuning.block_tokens
    return -(-table_tokens // split_tokens), split_tokens


def _merged(parts: jax.Array, position: jax.Array, split_tokens: int, window: int | None) -> jax.Array:
    """parts[split, token, kv_head, group, head_dim + WEIGHT_COLUMNS]: their weighted mean, float32, without splits.

    Splits without a key that the token sees hold anything.
    """
    first = split_tokens * jnp.arange(parts.shape[0])[:, None]
    is_seen = first <= position[None]
    if window is not None:
        is_seen = is_seen & (first + split_tokens > position[None] - window + 1)
    shape = (*parts.shape[1:-1], parts.shape[-1] - WEIGHT_COLUMNS)
    is_seen = jnp.broadcast_to(is_seen[:, :, None, None, None], (parts.shape[0], *shape))
    # Unrolled and elementwise, so that XLA makes one launch of it.
    weights = [jnp.where(seen, part[..., -1:], -jnp.inf) for seen, part in zip(is_seen, parts, strict=True)]
    top = functools.reduce(jnp.maximum, weights)
    shares = [jnp.exp2(weight - top) for weight in weights]
    sums = [
        jnp.where(seen, part[..., :-WEIGHT_COLUMNS] * share, 0.0)
        for seen, part, share in zip(is_seen, parts, shares, strict=True)
    ]
    return functools.reduce(jnp.add, sums) / functools.reduce(jnp.add, shares)


def _check(q: jax.Array, kv: jax.Array, work: AttentionWork, tuning: Tuning) -> None:
    """Refuse what the kernel is not made for."""
    page_tokens, table_tokens = kv.shape[1], work.table.shape[1] * kv.shape[1]
    group, head_dim = q.shape[2:]
    block_tokens = tuning.block_tokens
    wholes = page_tokens % 8 == 0 and (page_tokens % block_tokens == 0 or block_tokens % page_tokens == 0)
    for fits, got, wanted in (
        (q.dtype == kv.dtype, f"queries of {q.dtype} on a cache of {kv.dtype}", "one dtype"),
        (q.dtype in (jnp.bfloat16, jnp.float16), str(q.dtype), "bfloat16 or float16"),
        (head_dim in HEAD_DIMS, f"heads of {head_dim}", " or ".join(map(str, HEAD_DIMS))),
        (group <= ROWS, f"{group} query heads for each key/value head", f"at most {ROWS}"),
        (
            wholes,
            f"pages of {page_tokens} tokens",
            f"8, 16, 32 or a multiple of {block_tokens} ({block_tokens} is best)",
        ),
        (table_tokens % block_tokens == 0, f"page tables of {table_tokens} tokens", f"multiples of {block_tokens}"),
    ):
        if not fits:
            raise NotImplementedError(f"the Mosaic attention kernel got {got}; it takes {wanted}")
