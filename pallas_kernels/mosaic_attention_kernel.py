"""What one CUDA block of mosaic_attention.py does on Hopper. Owns: the kernel. Does not: cut work, launch or merge.

It takes neighbouring tokens of one sequence, one key/value head and one range of keys. Each warpgroup holds 64 query
rows, row r being head r % group of token r // group; all walk one ring of key and value blocks, which warpgroup 0 fills
by TMA, a box a page. Source of the loop: Dao et al. 2022 (arXiv 2205.14135); of weights that stay in registers between
the two products: Shah et al. 2024 (arXiv 2407.08608).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS = 64
"""Query rows of one warpgroup: what one wgmma takes."""

WEIGHT_COLUMNS = 8
"""Columns after a split's sums, each with the log2 of its total weight: 32 bytes, so that TMA can copy the rows."""

_LOWEST = -1e30
"""Stands for the largest score of no key: finite, so that its difference to itself is 0."""

_KEYS, _VALUES = 0, 1
_MATRIX = plgpu.Layout.WGMMA
_COLUMN = plgpu.Layout.WGMMA.reduce(1)

type Multiply = Callable[[jax.Array, jax.Array, jax.Ref], jax.Array]
type _Carry = tuple[jax.Array, jax.Array, jax.Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a launch is cut into CUDA blocks, and what they do."""

    tokens: int
    """Query tokens of one warpgroup."""
    warpgroups: int
    pieces: int
    """CUDA blocks that share the tokens of one unit."""
    splits: int
    """Ranges that keys are cut into. With more than one, `out` takes the result of each."""
    split_tokens: int
    """Keys of one range, in whole key blocks."""
    block_tokens: int
    """Keys of one turn of the loop."""
    stages: int
    """Key blocks, and as many value blocks, in shared memory."""
    window: int | None
    multiply: Multiply
    """(float32 total, a, b) -> total + a @ b, with `a` in registers and `b` in shared memory."""


def tensor_cores(total: jax.Array, a: jax.Array, b: jax.Ref) -> jax.Array:
    """The `Tiling.multiply` of a GPU."""
    return pl.run_state(lambda ref: plgpu.wgmma(ref, a, b))(plgpu.WGMMAAccumulatorRef.init(total))


@dataclass(frozen=True, slots=True)
class Memory:
    """The references of a CUDA block, in the kernel's order."""

    table: jax.Ref  # [row, page]
    q: jax.Ref  # [token, kv_head, group, head_dim]
    kv: jax.Ref  # [page, slot, 2, kv_head, head_dim]
    out: jax.Ref
    ring: jax.Ref  # [stage of keys, then of values; key of the block, head_dim]
    results: jax.Ref  # [warpgroup, ROWS, width of out], in the place of the ring
    queries: jax.Ref  # [warpgroup, ROWS, head_dim]
    loaded: jax.Ref  # [as ring] the block is there
    freed: jax.Ref  # [as ring] every warpgroup has used it
    ready: jax.Ref  # [warpgroup] its queries are there
    met: jax.Ref  # [1] every warpgroup has come here


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """The numbers of a CUDA block, and those of one of its warpgroups."""

    split: jax.Array
    head: jax.Array
    row: jax.Array
    oldest: jax.Array  # position of the first key that any token sees
    start: jax.Array  # position of the first token
    end: jax.Array  # one past the position of the last
    first_block: jax.Array
    num_blocks: jax.Array
    warpgroup: jax.Array
    token: jax.Array  # the warpgroup's first
    position: jax.Array  # of that token
    count: jax.Array  # the warpgroup's tokens


def run_unit(tiling: Tiling, memory: Memory, *numbers: jax.Ref) -> None:
    """Read what this CUDA block is to do, and attend if that is anything.

    numbers: num_units[1], token[unit], count[unit], row[token], position[token].
    """
    num_units, unit_token, unit_count, row, position = numbers
    index, warpgroup = lax.axis_index("unit"), lax.axis_index("warpgroup")
    size = tiling.tokens * tiling.warpgroups
    skipped = lax.axis_index("piece") * size
    count = jnp.int32(1) if size == 1 else jnp.clip(unit_count[index] - skipped, 0, size)
    count = jnp.where(index < num_units[0], count, 0)

    @pl.when(count > 0)
    def _() -> None:
        first, split = unit_token[index] + skipped, lax.axis_index("split")
        start, mine = position[first], warpgroup * tiling.tokens
        oldest = jnp.int32(0) if tiling.window is None else jnp.maximum(start - tiling.window + 1, 0)
        begin = jnp.maximum(oldest, split * tiling.split_tokens)
        end = jnp.minimum(start + count, (split + 1) * tiling.split_tokens)
        first_block = lax.div(begin, jnp.int32(tiling.block_tokens))
        unit = _Unit(
            split=split,
            head=lax.axis_index("head"),
            row=row[first],
            oldest=oldest,
            start=start,
            end=start + count,
            first_block=first_block,
            num_blocks=pl.cdiv(end, jnp.int32(tiling.block_tokens)) - first_block,
            warpgroup=warpgroup,
            token=first + mine,
            position=start + mine,
            count=jnp.clip(count - mine, 0, tiling.tokens),
        )
        pl.when(unit.num_blocks > 0)(lambda: _attend(tiling, memory, unit))


def _attend(tiling: Tiling, memory: Memory, unit: _Unit) -> None:
    """All of a block's keys for all of its queries."""

    @pl.when(unit.warpgroup == 0)
    def _() -> None:
        for j in map(jnp.int32, range(tiling.stages)):
            fetch = functools.partial(_fetch, tiling, memory, unit, _pages(tiling, memory, unit, j))
            for part in (_KEYS, _VALUES):
                pl.when(j < unit.num_blocks)(functools.partial(fetch, part, j))

    queries = _queries(tiling, memory, unit)
    carry = (
        plgpu.layout_cast(jnp.full((ROWS,), _LOWEST, jnp.float32), _COLUMN),
        plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), _COLUMN),
        plgpu.layout_cast(jnp.zeros(queries.shape, jnp.float32), _MATRIX),
    )
    carry = lax.fori_loop(0, unit.num_blocks, functools.partial(_turn, tiling, memory, unit, queries), carry)
    _meet(tiling, memory)  # the results lie where others may still read keys
    _write(tiling, memory, unit, carry)


def _pages(tiling: Tiling, memory: Memory, unit: _Unit, j: jax.Array) -> list[jax.Array]:
    """The pages of block j, or of the last block where there is no such."""
    page_tokens = memory.kv.shape[1]
    first = (unit.first_block + jnp.minimum(j, unit.num_blocks - 1)) * tiling.block_tokens
    return [
        memory.table[unit.row, lax.div(first + done, jnp.int32(page_tokens))]
        for done in range(0, tiling.block_tokens, page_tokens)
    ]


def _fetch(tiling: Tiling, memory: Memory, unit: _Unit, pages: list[jax.Array], part: int, j: jax.Array) -> None:
    """Start to copy the keys or values of block j, which lie in these pages, into the ring."""
    page_tokens, slot = memory.kv.shape[1], _slot(tiling, part, j)
    box = min(page_tokens, tiling.block_tokens)
    at: jax.Array | int = 0
    if box < page_tokens:
        at = pl.multiple_of(lax.rem((unit.first_block + j) * box, jnp.int32(page_tokens)), 8)
    for i, page in enumerate(pages):
        rows = memory.kv.at[page, pl.ds(at, box), part, unit.head]
        plgpu.copy_gmem_to_smem(rows, memory.ring.at[slot, pl.ds(i * box, box)], memory.loaded.at[slot])


def _refill(tiling: Tiling, memory: Memory, unit: _Unit, pages: list[jax.Array], part: int, j: jax.Array) -> None:
    """Give back what this warpgroup used in turn j, and fetch what is `_coming` to where all have done so."""
    coming = _coming(tiling, j)
    if tiling.warpgroups > 1:  # Where nothing takes its place nobody waits.
        freed = memory.freed.at[_slot(tiling, part, j)]
        pl.when(j + tiling.stages < unit.num_blocks)(lambda: plgpu.barrier_arrive(freed))

    @pl.when((unit.warpgroup == 0) & (coming >= tiling.stages) & (coming < unit.num_blocks))
    def _() -> None:
        if tiling.warpgroups > 1:
            plgpu.barrier_wait(memory.freed.at[_slot(tiling, part, coming)])
        _fetch(tiling, memory, unit, pages, part, coming)


def _coming(tiling: Tiling, j: jax.Array) -> jax.Array:
    """The block to fetch in turn j: in the place of block j, or, so that no warpgroup need wait, of the one before."""
    return j + tiling.stages - min(1, tiling.warpgroups - 1)


def _slot(tiling: Tiling, part: int, j: jax.Array) -> jax.Array:
    return part * tiling.stages + lax.rem(j, jnp.int32(tiling.stages))


def _meet(tiling: Tiling, memory: Memory) -> None:
    if tiling.warpgroups > 1:
        plgpu.barrier_arrive(memory.met.at[0])
        plgpu.barrier_wait(memory.met.at[0])


def _queries(tiling: Tiling, memory: Memory, unit: _Unit) -> jax.Array:
    """The warpgroup's query rows in registers; rows of no token are whatever lay there, and harm no others."""
    group, mine, ready = memory.q.shape[2], memory.queries.at[unit.warpgroup], memory.ready.at[unit.warpgroup]

    @pl.loop(0, unit.count)
    def _(i: jax.Array) -> None:
        rows = memory.q.at[unit.token + i, unit.head]
        plgpu.copy_gmem_to_smem(rows, mine.at[pl.ds(i * group, group)], ready)

    pl.loop(unit.count, tiling.tokens)(lambda _: plgpu.barrier_arrive(ready))
    plgpu.barrier_wait(ready)
    return plgpu.load(mine, layout=_MATRIX, optimized=False)


def _turn(tiling: Tiling, memory: Memory, unit: _Unit, queries: jax.Array, j: jax.Array, carry: _Carry) -> _Carry:
    """Weigh the values of block j."""
    top, total, sums = carry
    keys, values = _slot(tiling, _KEYS, j), _slot(tiling, _VALUES, j)
    scale = queries.shape[1] ** -0.5 * math.log2(math.e)
    pages = _pages(tiling, memory, unit, _coming(tiling, j))  # long before they are needed
    plgpu.barrier_wait(memory.loaded.at[keys])
    zeros = plgpu.layout_cast(jnp.zeros((ROWS, tiling.block_tokens), jnp.float32), _MATRIX)
    scores = tiling.multiply(zeros, queries, memory.ring.at[keys].transpose((1, 0)))
    _refill(tiling, memory, unit, pages, _KEYS, j)
    scores = lax.cond(
        _is_whole(tiling, unit, j), lambda: scores, lambda: jnp.where(_seen(tiling, memory, unit, j), scores, -jnp.inf)
    )
    new_top = jnp.maximum(top, scores.max(axis=1) * scale)
    shrink = jnp.exp2(top - new_top)
    weights = jnp.exp2(scores * scale - lax.broadcast_in_dim(new_top, scores.shape, (0,)))
    total = total * shrink + weights.sum(axis=1)
    sums = sums * lax.broadcast_in_dim(shrink, sums.shape, (0,))
    plgpu.barrier_wait(memory.loaded.at[values])
    _blank(tiling, memory, unit, j)
    sums = tiling.multiply(sums, weights.astype(queries.dtype), memory.ring.at[values])
    _refill(tiling, memory, unit, pages, _VALUES, j)
    return new_top, total, sums


def _is_whole(tiling: Tiling, unit: _Unit, j: jax.Array) -> jax.Array:
    """Whether every token of the unit sees every key of block j."""
    first = (unit.first_block + j) * tiling.block_tokens
    is_past = first + tiling.block_tokens <= unit.start + 1
    return is_past if tiling.window is None else is_past & (first >= unit.end - tiling.window)


def _seen(tiling: Tiling, memory: Memory, unit: _Unit, j: jax.Array) -> jax.Array:
    """Which keys of block j each query row sees."""
    shape, group = (ROWS, tiling.block_tokens), jnp.int32(memory.q.shape[2])
    query = lax.div(plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=_MATRIX), group) + unit.position
    key = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=_MATRIX) + (unit.first_block + j) * tiling.block_tokens
    return key <= query if tiling.window is None else (key <= query) & (key > query - tiling.window)


def _blank(tiling: Tiling, memory: Memory, unit: _Unit, j: jax.Array) -> None:
    """Make zeros of the values that no token of the unit sees: they may be NaN, and 0 * NaN is NaN."""
    first = (unit.first_block + j) * tiling.block_tokens
    values = memory.ring.at[_slot(tiling, _VALUES, j)]

    @pl.when((first < unit.oldest) | (first + tiling.block_tokens > unit.end))
    def _() -> None:
        @pl.when(unit.warpgroup == 0)
        def _() -> None:
            at = plgpu.broadcasted_iota(jnp.int32, values.shape, 0, layout=_MATRIX) + first
            is_seen = (at >= unit.oldest) & (at < unit.end)
            old = plgpu.load(values, layout=_MATRIX)
            values[...] = jnp.where(is_seen, old, jnp.zeros((), values.dtype))
            plgpu.commit_smem()

        _meet(tiling, memory)


def _write(tiling: Tiling, memory: Memory, unit: _Unit, carry: _Carry) -> None:
    """Copy the rows of the warpgroup's tokens to `out`."""
    top, total, sums = carry
    (group, head_dim), mine, out = memory.q.shape[2:], memory.results.at[unit.warpgroup], memory.out
    sums = sums / lax.broadcast_in_dim(total, sums.shape, (0,))
    if tiling.splits > 1:
        weight = lax.broadcast_in_dim(top + jnp.log2(total), (ROWS, WEIGHT_COLUMNS), (0,))
        mine.at[:, pl.ds(0, head_dim)][...] = sums
        mine.at[:, pl.ds(head_dim, WEIGHT_COLUMNS)][...] = weight
        out = out.at[unit.split]
    else:
        mine[...] = sums.astype(out.dtype)
    plgpu.commit_smem()

    @pl.loop(0, unit.count)
    def _(i: jax.Array) -> None:
        rows = out.at[unit.token + i, unit.head]
        plgpu.copy_smem_to_gmem(mine.at[pl.ds(i * group, group)], rows, commit_group=False)

    plgpu.commit_smem_to_gmem_group()
    plgpu.wait_smem_to_gmem(0)
