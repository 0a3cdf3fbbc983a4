"""What the LoRA kernels for Hopper GPUs have in common. Owns: their sizes, and turns of phrase of Pallas Mosaic GPU."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.tiles import COLUMNS
from pallas_kernels.work import NARROW, ROWS, TILE_PAGES

RANKS = TILE_PAGES * ROWS
"""Rank rows of one tile: one instruction's height."""

BLOCKS = 264
"""Thread blocks that run at a time: two on each of 132 multiprocessors."""

DECODE_TOKENS = 256
"""Tokens of a step up to which bytes take the time, not arithmetic."""

_SMEM_BYTES = 112 * 1024
"""Shared memory of each of two blocks on a multiprocessor."""

SWIZZLED = (
    plgpu.TilingTransform((ROWS, COLUMNS)),  # type: ignore[abstract]  # not so
    plgpu.SwizzleTransform(128),  # type: ignore[abstract]  # not so
)
COMPILER = plgpu.CompilerParams(
    lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
    unsafe_no_auto_barriers=True,  # they come with every load; `free` is one for all loads of a slot
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What changes the speed of the kernels and, but for the order of sums, not their results."""

    splits: int
    """Pieces of x's width that shrink sums apart: planes of h."""
    in_block: int
    """Columns of x and A that shrink loads at once."""
    out_block: int
    """Columns of B that expand multiplies at once."""
    repeats: int = 1
    """Blocks of columns of one unit of expand, which share its h."""
    in_stages: int = 2
    """Loads in flight of one thread block of shrink."""
    out_stages: int = 2
    """The same of expand."""
    in_launch: int = BLOCKS
    """Thread blocks of shrink."""
    out_launch: int = BLOCKS
    """The same of expand."""
    is_fused: bool = False
    """Whether one unit of shrink serves all targets, which reads x once, or one of them, which makes more units."""
    overlaps: bool = True
    """Whether expand may begin to load B while shrink ends; JAX's interpreter cannot."""


def tuning(num_tokens: int, wide: int, width_in: int, widths_out: Sequence[int]) -> Tuning:
    """A choice from counts of bytes and units, not from measurements.

    Two blocks share a multiprocessor, but a fused shrink has it alone.
    """
    targets, windows, is_fused = len(widths_out), -(-num_tokens // NARROW), num_tokens > DECODE_TOKENS
    splits = 12 // targets
    if is_fused:
        windows = -(-num_tokens // wide)
        splits = BLOCKS // 2 // windows
    pieces = (n for n in (8, 4, 2) if n <= splits and width_in % (n * COLUMNS) == 0 and width_in // n >= 512)
    splits = next(pieces, 1)

    def is_enough(columns: int, units: int) -> bool:
        return all(width % columns == 0 for width in widths_out) and windows * sum(widths_out) // columns >= units

    most = 128 if wide > 32 else 256
    out_block = next((size for size in (256, 192, 128) if size <= most and is_enough(size, BLOCKS // 2)), COLUMNS)
    repeats = next((n for n in (8, 4, 2) if is_fused and is_enough(n * out_block, BLOCKS)), 1)
    out_stages = (_SMEM_BYTES // 2 - wide * out_block) // (RANKS * (splits * wide + out_block))
    room, span = (2 * _SMEM_BYTES, targets * RANKS) if is_fused else (_SMEM_BYTES, RANKS)
    in_block, in_stages = _loads(room // 2 - wide * span, wide + span, width_in // splits)
    return Tuning(
        splits=splits,
        in_block=in_block,
        in_stages=in_stages,
        in_launch=BLOCKS // 2 if is_fused else BLOCKS,
        is_fused=is_fused,
        out_block=out_block,
        repeats=repeats,
        out_stages=max(1, min(out_stages, 4)),
    )


def _loads(room: int, rows: int, width: int) -> tuple[int, int]:
    """Columns and stages of loads of so many rows: the widest of which three fit the room, counted in values."""
    blocks = [size for size in (256, 192, 128, 64) if width % size == 0]
    block = next((size for size in blocks if room // (rows * size) >= 3), blocks[-1])
    return block, max(1, min(room // (rows * block), 8))


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a launch that fall to one thread block: every `blocks`-th, from its own number on."""

    block: jax.Array
    blocks: int
    mine: jax.Array
    """How many they are."""

    @classmethod
    def of(cls, total: jax.Array, blocks: int) -> "Units":
        """Those of `total` that are this block's."""
        block = lax.axis_index("block")
        return cls(block, blocks, lax.div(total - block + (blocks - 1), blocks))

    def nth(self, n: jax.Array) -> jax.Array:
        """The n-th of them."""
        return self.block + n * self.blocks


def times(count: jax.Array | int, body: Callable[[jax.Array], None]) -> None:
    """Run the body for 0 … count - 1."""
    lax.fori_loop(0, count, lambda i, _: body(i), None)


def either(which: jax.Array, bodies: Sequence[Callable[[], None]]) -> None:
    """Run one of the bodies."""
    for i, body in enumerate(bodies):
        pl.when(which == i)(body)


def each_width(is_wide: jax.Array, wide: int, body: Callable[[int], None]) -> None:
    """Run the body as it was written for this window: an instruction's width is fixed when it is compiled."""
    widths = (NARROW,) if wide == NARROW else (NARROW, wide)
    either(is_wide, [functools.partial(body, width) for width in widths])


def page_rows(j: jax.Array, first: int = 0) -> pl.Slice:
    """Rows of the j-th page of a tile, whose rows begin at `first`."""
    return pl.ds(pl.multiple_of(first + j * ROWS, ROWS), ROWS)


def window(token: jax.Array, width: int) -> pl.Slice:
    """Tokens of a window, or its rows of h."""
    return pl.ds(pl.multiple_of(token, NARROW), width)


def free() -> None:
    """Wait until every warp is done with what it read from shared memory: a load may follow."""
    plgpu.commit_smem()


def arrive(count: jax.Array, barrier: jax.Ref) -> None:
    """Stand in for loads that a tile has no pages for."""
    times(count, lambda _: plgpu.barrier_arrive(barrier))  # type: ignore[arg-type]  # any reference will do


def multiplied(shape: tuple[int, int], add: Callable[[jax.Ref], None]) -> jax.Array:
    """The float32 sum of the products that `add` gives to an accumulator."""

    def scope(total: jax.Ref) -> jax.Array:
        add(total)
        return total[...]

    return pl.run_scoped(scope, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))


def store(product: jax.Array, smem: jax.Ref) -> None:
    """A product [row, token] as smem[token, row], once the last one stored there has been sent."""
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    turned = plgpu.layout_cast(product.astype(smem.dtype), plgpu.Layout.WGMMA_TRANSPOSED)
    smem.transpose((1, 0))[...] = turned  # type: ignore[attr-defined]
    plgpu.commit_smem()
