"""Expand for Hopper GPUs: the updates h @ B. Owns: the kernel. Does not: choose its sizes.

A unit is one window of tokens and one or more blocks of columns; nobody else writes there, so nothing is cleared
before or added to. 64 columns are the height of the instruction and the tokens its width. The planes of h are
multiplied one after the other, so that each sum has one order.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import mosaic_parts as parts
from pallas_kernels.mosaic_parts import RANKS, Tuning, Units
from pallas_kernels.work import NARROW, TILE_PAGES, LoraTiles


@functools.partial(jax.jit, static_argnames=("how", "groups"))
def expand(
    h: jax.Array, pools: tuple[jax.Array, ...], tiles: LoraTiles, offset: jax.Array, how: Tuning, groups: int
) -> jax.Array:
    """out[token, column] for h of `shrink` and b[page, row, out] of each target.

    Columns are those of the first of `groups` parts of every target, then of the second, and so on; no block of
    `how.out_block` columns reaches over the end of a part.
    """
    span = how.out_block * how.repeats
    starts = (0, *accumulate(pool.shape[2] // span for pool in pools))

    def body(*refs: jax.Ref) -> None:
        _Block(how, tiles.wide, starts, groups, _Refs(*refs[:6]), refs[6:-6], _Smem(*refs[-6:])).run()

    kernel = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((tiles.window.shape[0] * NARROW, starts[-1] * span), h.dtype),
        grid=(how.out_launch,),
        grid_names=("block",),
        scratch_types=[
            plgpu.SMEM((how.out_stages, how.splits, tiles.wide, RANKS), h.dtype, transforms=parts.SWIZZLED),
            plgpu.SMEM((how.out_stages, RANKS, how.out_block), h.dtype, transforms=parts.SWIZZLED),
            plgpu.SMEM((tiles.wide, how.out_block), h.dtype, transforms=parts.SWIZZLED),
            plgpu.Barrier(num_arrivals=how.splits, num_barriers=how.out_stages),
            plgpu.Barrier(num_arrivals=TILE_PAGES, num_barriers=how.out_stages),
        ],
        compiler_params=parts.COMPILER,
    )
    return kernel(tiles.counts, tiles.window, tiles.tile, tiles.page, offset, h, *pools)


@dataclass(frozen=True, slots=True)
class _Refs:
    """The kernel's inputs in GPU memory, but for the pools."""

    counts: jax.Ref
    window: jax.Ref
    tile: jax.Ref
    page: jax.Ref
    offset: jax.Ref
    h: jax.Ref


@dataclass(frozen=True, slots=True)
class _Smem:
    """The output, then what one thread block has in shared memory."""

    update: jax.Ref  # the output, in GPU memory
    h: jax.Ref  # [stage, split, token, rank]
    b: jax.Ref  # [stage, rank, column]
    out: jax.Ref  # [token, column]
    h_loaded: jax.Ref  # [stage]
    b_loaded: jax.Ref  # [stage]


@dataclass(frozen=True, slots=True)
class _Unit:
    """One unit; its steps are its tiles, once for each of its blocks of columns."""

    token: jax.Array  # first of the window
    column: jax.Array  # which unit of all targets' columns
    target: jax.Array
    tile: jax.Array  # first
    row: jax.Array  # of h, of the first tile
    num_tiles: jax.Array
    is_wide: jax.Array


@dataclass(frozen=True, slots=True)
class _Block:
    """What one thread block does, unit after unit."""

    how: Tuning
    wide: int
    starts: tuple[int, ...]
    """Where each target's units of columns begin, and where the last one's end."""
    groups: int
    refs: _Refs
    pools: tuple[jax.Ref, ...]
    smem: _Smem

    def run(self) -> None:
        units = Units.of(self.refs.counts[1] * self.starts[-1], self.how.out_launch)
        self._clear()
        parts.times(units.mine, lambda nth: self._window(self._unit(units.nth(nth)), nth == 0))
        plgpu.wait_smem_to_gmem(0)

    def _clear(self) -> None:
        """No load may ever fill the rows of pages that a tile lacks; h is 0 there, and 0 times NaN is not."""

        def one(slot: jax.Array) -> None:
            zeros = jnp.zeros(self.smem.b.shape[1:], self.smem.b.dtype)
            self.smem.b[slot] = plgpu.layout_cast(zeros, plgpu.Layout.WGMMA)

        parts.times(self.how.out_stages, one)
        plgpu.commit_smem()

    def _unit(self, unit: jax.Array) -> _Unit:
        window, column = lax.div(unit, self.starts[-1]), lax.rem(unit, self.starts[-1])
        token, tile, num_tiles, is_wide = (self.refs.window[window, i] for i in range(4))
        target = sum(((column >= start).astype(jnp.int32) for start in self.starts[1:-1]), jnp.int32(0))
        return _Unit(token, column, target, tile, self.refs.tile[tile, 1], num_tiles, is_wide)

    def _window(self, unit: _Unit, is_first: jax.Array) -> None:
        total, stages = unit.num_tiles * self.how.repeats, self.how.out_stages

        def product(width: int) -> None:
            parts.times(jnp.minimum(stages, total), functools.partial(self._load_b, unit))
            if self.how.overlaps:
                pl.when(is_first)(plgpu.griddepcontrol_wait)
            parts.times(jnp.minimum(stages, unit.num_tiles), functools.partial(self._load_h, unit, width))
            parts.times(self.how.repeats, functools.partial(self._columns, unit, width))

        parts.each_width(unit.is_wide, self.wide, product)

    def _load_b(self, unit: _Unit, step: jax.Array) -> None:
        slot, tile = lax.rem(step, self.how.out_stages), unit.tile + lax.rem(step, unit.num_tiles)
        loaded, width = self.smem.b_loaded.at[slot], self.how.out_block

        def pages(pool: jax.Ref, start: int) -> None:
            column = (unit.column - start) * self.how.repeats + lax.div(step, unit.num_tiles)

            def one(j: jax.Array) -> None:
                page = self.refs.page[tile, j] + self.refs.offset[0]
                source = pool.at[page, :, pl.ds(column * width, width)]
                plgpu.copy_gmem_to_smem(source, self.smem.b.at[slot, parts.page_rows(j)], loaded)

            parts.times(self.refs.tile[tile, 2], one)

        targets = zip(self.pools, self.starts[:-1], strict=True)
        parts.either(unit.target, [functools.partial(pages, pool, start) for pool, start in targets])
        parts.arrive(TILE_PAGES - self.refs.tile[tile, 2], loaded)

    def _load_h(self, unit: _Unit, width: int, step: jax.Array) -> None:
        slot = lax.rem(step, self.how.out_stages)
        rows = parts.window(unit.row + lax.rem(step, unit.num_tiles) * width, width)
        group, ranks = unit.target, pl.ds(0, RANKS)
        if self.refs.h.shape[1] < len(self.pools):  # all targets of a row lie side by side
            group, ranks = jnp.int32(0), pl.ds(pl.multiple_of(unit.target * RANKS, RANKS), RANKS)

        def one(split: jax.Array) -> None:
            smem = self.smem.h.at[slot, split, pl.ds(0, width)]
            plgpu.copy_gmem_to_smem(self.refs.h.at[split, group, rows, ranks], smem, self.smem.h_loaded.at[slot])

        parts.times(self.how.splits, one)

    def _columns(self, unit: _Unit, width: int, block: jax.Array) -> None:
        """One block of the unit's columns."""
        update = parts.multiplied((self.how.out_block, width), functools.partial(self._add, unit, width, block))
        smem = self.smem.out.at[pl.ds(0, width)]
        parts.store(update, smem)
        plgpu.copy_smem_to_gmem(smem, self.smem.update.at[parts.window(unit.token, width), self._place(unit, block)])

    def _place(self, unit: _Unit, block: jax.Array) -> pl.Slice:
        """Where one block of the unit's columns lies in the output. Counted in blocks until the end."""
        own = unit.column * self.how.repeats + block
        if self.groups > 1:
            ends = [start * self.how.repeats for start in self.starts]
            begin, end = (_chosen(unit.target, bounds) for bounds in (ends[:-1], ends[1:]))
            part = lax.div(end - begin, self.groups)
            group, within = lax.div(own - begin, part), lax.rem(own - begin, part)
            own = group * (ends[-1] // self.groups) + lax.div(begin, self.groups) + within
        return pl.ds(pl.multiple_of(own * self.how.out_block, self.how.out_block), self.how.out_block)

    def _add(self, unit: _Unit, width: int, block: jax.Array, total: jax.Ref) -> None:
        """The products of one block's tiles. Where h of all tiles fits its slots, the unit loads it once."""
        stages, stays = self.how.out_stages, unit.num_tiles <= self.how.out_stages
        last = unit.num_tiles * self.how.repeats

        def one(k: jax.Array) -> None:
            step = block * unit.num_tiles + k
            slot = lax.rem(step, stages)
            h_slot = jnp.where(stays, k, slot)
            is_new = (block == 0) | jnp.logical_not(stays)
            pl.when(is_new)(lambda: plgpu.barrier_wait(self.smem.h_loaded.at[h_slot]))
            plgpu.barrier_wait(self.smem.b_loaded.at[slot])
            columns = self.smem.b.at[slot].transpose((1, 0))
            for split in range(self.how.splits):
                h = self.smem.h.at[h_slot, split, pl.ds(0, width)]
                plgpu.wgmma(total, columns, h.transpose((1, 0)))  # type: ignore[arg-type]
            plgpu.wgmma_wait(0)

            @pl.when(step + stages < last)
            def _() -> None:
                parts.free()
                self._load_b(unit, step + stages)
                pl.when(jnp.logical_not(stays))(lambda: self._load_h(unit, width, step + stages))

        parts.times(unit.num_tiles, one)


def _chosen(which: jax.Array, values: Sequence[int]) -> jax.Array:
    """values[which] of constants that no memory holds."""
    return sum((jnp.where(which == i, value, 0) for i, value in enumerate(values)), jnp.int32(0))
