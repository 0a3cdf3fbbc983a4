"""Shrink for Hopper GPUs: h = weight * x @ A^T, page by page. Owns: the kernel. Does not: choose its sizes.

A unit is one tile, one target (or all, where they share x in one unit) and one piece of x's width. The 64 rank rows of
a tile are the height of the instruction and the tokens of its window its width, so that eight tokens cost eight.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import mosaic_parts as parts
from pallas_kernels.mosaic_parts import RANKS, Tuning, Units
from pallas_kernels.work import ROWS, TILE_PAGES, LoraTiles

_BY_RANK = plgpu.Layout.WGMMA.reduce(1)


@functools.partial(jax.jit, static_argnames="how")
def shrink(x: jax.Array, pools: tuple[jax.Array, ...], tiles: LoraTiles, offset: jax.Array, how: Tuning) -> jax.Array:
    """h[split, group, row, rank] for x[token, in] and a[page, row, in] of each target; 0 for tokens of other pages.

    A group is one target, or all of them side by side where `how.is_fused`. `offset` is added to every page.
    """
    members = len(pools) if how.is_fused else 1
    span = members * RANKS

    def spread(values: jax.Array) -> jax.Array:
        """From pages to the rows of a unit's product; computed once for all layers."""
        return jnp.tile(jnp.repeat(values, ROWS, axis=1), (1, members))

    def body(*refs: jax.Ref) -> None:
        _Block(how, tiles.wide, members, _Refs(*refs[:8]), refs[8:-5], _Smem(*refs[-5:])).run()

    kernel = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((how.splits, len(pools) // members, tiles.num_rows, span), x.dtype),
        grid=(how.in_launch,),
        grid_names=("block",),
        scratch_types=[
            plgpu.SMEM((how.in_stages, tiles.wide, how.in_block), x.dtype, transforms=parts.SWIZZLED),
            plgpu.SMEM((how.in_stages, span, how.in_block), x.dtype, transforms=parts.SWIZZLED),
            plgpu.SMEM((tiles.wide, span), x.dtype, transforms=parts.SWIZZLED),
            plgpu.Barrier(num_arrivals=1 + members * TILE_PAGES, num_barriers=how.in_stages),
        ],
        compiler_params=parts.COMPILER,
    )
    by_rank = (spread(tiles.low), spread(tiles.high), spread(tiles.weight))
    return kernel(tiles.counts, tiles.tile, tiles.page, offset, *by_rank, x, *pools)


@dataclass(frozen=True, slots=True)
class _Refs:
    """The kernel's inputs in GPU memory, but for the pools."""

    counts: jax.Ref
    tile: jax.Ref
    page: jax.Ref
    offset: jax.Ref
    low: jax.Ref  # [tile, rank], as the next two
    high: jax.Ref
    weight: jax.Ref
    x: jax.Ref


@dataclass(frozen=True, slots=True)
class _Smem:
    """The output, then what one thread block has in shared memory."""

    h: jax.Ref  # the output, in GPU memory
    x: jax.Ref  # [stage, token, column]
    a: jax.Ref  # [stage, rank, column]
    out: jax.Ref  # [token, rank]
    loaded: jax.Ref  # [stage]


@dataclass(frozen=True, slots=True)
class _Block:
    """What one thread block does: it walks the steps of all its units, and loads run ahead of the unit they are for."""

    how: Tuning
    wide: int
    members: int
    refs: _Refs
    pools: tuple[jax.Ref, ...]
    smem: _Smem

    def run(self) -> None:
        units, num_steps = self._units(), self._num_steps()
        if self.how.overlaps:
            plgpu.griddepcontrol_wait()  # in this order: then all that came before is done when expand begins
            plgpu.griddepcontrol_launch_dependents()
        parts.times(jnp.minimum(self.how.in_stages, units.mine * num_steps), self._load)
        parts.times(units.mine, self._unit)
        plgpu.wait_smem_to_gmem(0)

    def _units(self) -> Units:
        groups = len(self.pools) // self.members
        return Units.of(self.refs.counts[0] * (groups * self.how.splits), self.how.in_launch)

    def _num_steps(self) -> int:
        return self.refs.x.shape[1] // self.how.splits // self.how.in_block

    def _place(self, nth: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(tile, group, split) of this block's n-th unit."""
        unit, groups = self._units().nth(nth), len(self.pools) // self.members
        rest = lax.div(unit, self.how.splits)
        return lax.div(rest, groups), lax.rem(rest, groups), lax.rem(unit, self.how.splits)

    def _load(self, step: jax.Array) -> None:
        """Begin to load x and the pages of one step into its slot."""
        num_steps, slot = self._num_steps(), lax.rem(step, self.how.in_stages)
        tile, group, split = self._place(lax.div(step, num_steps))
        columns = pl.ds((split * num_steps + lax.rem(step, num_steps)) * self.how.in_block, self.how.in_block)
        loaded, refs = self.smem.loaded.at[slot], self.refs

        def tokens(width: int) -> None:
            source = refs.x.at[parts.window(refs.tile[tile, 0], width), columns]
            plgpu.copy_gmem_to_smem(source, self.smem.x.at[slot, pl.ds(0, width)], loaded)

        def pages(pools: tuple[jax.Ref, ...]) -> None:
            def one(j: jax.Array) -> None:
                for member, pool in enumerate(pools):
                    source = pool.at[refs.page[tile, j] + refs.offset[0], :, columns]
                    plgpu.copy_gmem_to_smem(source, self.smem.a.at[slot, parts.page_rows(j, member * RANKS)], loaded)

            parts.times(refs.tile[tile, 2], one)

        parts.each_width(refs.tile[tile, 3], self.wide, tokens)
        every = range(0, len(self.pools), self.members)
        parts.either(group, [functools.partial(pages, self.pools[i : i + self.members]) for i in every])
        parts.arrive(self.members * (TILE_PAGES - refs.tile[tile, 2]), loaded)

    def _unit(self, nth: jax.Array) -> None:
        tile, group, split = self._place(nth)

        def product(width: int) -> None:
            h = parts.multiplied((self.members * RANKS, width), functools.partial(self._add, nth, width))
            smem = self.smem.out.at[pl.ds(0, width)]
            parts.store(self._own(h, tile), smem)
            rows = parts.window(self.refs.tile[tile, 1], width)
            plgpu.copy_smem_to_gmem(smem, self.smem.h.at[split, group, rows])

        parts.each_width(self.refs.tile[tile, 3], self.wide, product)

    def _add(self, nth: jax.Array, width: int, total: jax.Ref) -> None:
        """The products of one unit's steps; each frees the slot of the step before it for a load."""
        num_steps, stages = self._num_steps(), self.how.in_stages
        last = self._units().mine * num_steps

        def one(k: jax.Array) -> None:
            step = nth * num_steps + k
            slot = lax.rem(step, stages)
            plgpu.barrier_wait(self.smem.loaded.at[slot])
            tokens = self.smem.x.at[slot, pl.ds(0, width)]
            plgpu.wgmma(total, self.smem.a.at[slot], tokens.transpose((1, 0)))  # type: ignore[arg-type]
            plgpu.wgmma_wait(1)

            @pl.when((step > 0) & (step - 1 + stages < last))
            def _() -> None:
                parts.free()
                self._load(step - 1 + stages)

        parts.times(num_steps, one)

    def _own(self, h: jax.Array, tile: jax.Array) -> jax.Array:
        """h[rank, token] times each page's weight, and 0 where the token does not use the page."""
        token = plgpu.broadcasted_iota(jnp.int32, h.shape, 1, layout=plgpu.Layout.WGMMA)

        def by_rank(values: jax.Ref) -> jax.Array:
            column = plgpu.load(values.at[tile], layout=_BY_RANK, optimized=False)
            return lax.broadcast_in_dim(column, h.shape, (0,))

        uses = (token >= by_rank(self.refs.low)) & (token < by_rank(self.refs.high))
        return jnp.where(uses, h * by_rank(self.refs.weight), 0.0)
