"""Grouped LoRA in Pallas' Triton style: the short twin of `mosaic_lora`. Owns: a second opinion, and a baseline.

Reads the same tiles. JAX calls this style deprecated; it is kept for as long as JAX has it.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pallas_kernels.tiles import checked
from pallas_kernels.work import NARROW, ROWS, TILE_PAGES, LoraTiles, LoraWork

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas import triton as plt

type Page = tuple[jax.Array, jax.Array]

_RANKS = TILE_PAGES * ROWS
_PROGRAMS = 528
"""Of a launch: four on each of 132 multiprocessors."""
_ANY = pl.BlockSpec(memory_space=pl.ANY)


def grouped_lora(x: jax.Array, pages: Sequence[Page], work: LoraWork, interpret: bool = False) -> tuple[jax.Array, ...]:
    """Same meaning as `xla_lora.grouped_lora`, each update rounded once to x.dtype.

    Raises: NotImplementedError for shapes and dtypes that the kernels do not take.
    """
    cuts = list(accumulate(b.shape[2] for _, b in pages))[:-1]
    return tuple(part.astype(jnp.float32) for part in jnp.split(updates(x, pages, work, interpret), cuts, axis=1))


def updates(x: jax.Array, pages: Sequence[Page], work: LoraWork, interpret: bool = False) -> jax.Array:
    """The updates of all targets side by side as the kernels leave them: [token, out of every target] in x.dtype."""
    tiles = checked(x, pages, work)
    rounded = jnp.pad(x, ((0, -x.shape[0] % NARROW), (0, 0)))
    offset = jnp.full(1, tiles.first_page, jnp.int32)
    h = _shrink(rounded, tuple(_rows(a) for a, _ in pages), tiles, offset, interpret)
    return _expand(h, tuple(_rows(b) for _, b in pages), tiles, offset, x.dtype, interpret)[: x.shape[0]]


def _rows(pool: jax.Array) -> jax.Array:
    return pool.reshape(-1, pool.shape[2])


def _block(*widths: int) -> int:
    return next(size for size in (128, 64) if all(width % size == 0 for width in widths))


def _shrink(
    x: jax.Array, pools: tuple[jax.Array, ...], tiles: LoraTiles, offset: jax.Array, interpret: bool
) -> jax.Array:
    """h[split, target, row, rank], float32, = weight * x @ A^T; 0 for tokens that do not use the page."""
    splits = next(n for n in (4, 2, 1) if n == 1 or (x.shape[1] % (n * _RANKS) == 0 and x.shape[1] // n >= 512))
    width = x.shape[1] // splits
    block = _block(width)

    def body(*refs: jax.Ref) -> None:
        counts, tile, page, offset, low, high, weight, x, *pools, h = refs
        token, rank = jnp.arange(max(tiles.wide, 16)), jnp.arange(_RANKS)

        def unit(n: jax.Array) -> None:
            at, target, split = n // (len(pools) * splits), n // splits % len(pools), n % splits
            live = token < NARROW + tile[at, 3] * (tiles.wide - NARROW)
            slot = rank // ROWS
            held = slot < tile[at, 2]
            a_row = (plt.load(page.at[at, slot]) + offset[0]) * ROWS + rank % ROWS
            low_, high_, weight_ = (plt.load(field.at[at, slot])[None, :] for field in (low, high, weight))

            def product(pool: jax.Ref) -> None:
                def step(k: jax.Array, total: jax.Array) -> jax.Array:
                    columns = split * width + k * block + jnp.arange(block)
                    xs = plt.load(x.at[(tile[at, 0] + token)[:, None], columns[None, :]], mask=live[:, None], other=0)
                    rows = plt.load(pool.at[a_row[:, None], columns[None, :]], mask=held[:, None], other=0)
                    return total + plt.dot(xs, rows, trans_b=True)

                zeros = jnp.zeros((len(token), _RANKS), jnp.float32)
                total = lax.fori_loop(0, width // block, step, zeros)
                uses = (token[:, None] >= low_) & (token[:, None] < high_)
                place = h.at[split, target, (tile[at, 1] + token)[:, None], rank[None, :]]
                plt.store(place, jnp.where(uses, total * weight_, 0.0), mask=live[:, None] & held[None, :])

            for which, pool in enumerate(pools):
                pl.when(target == which)(functools.partial(product, pool))

        _units(counts[0] * (len(pools) * splits), unit)

    out = jax.ShapeDtypeStruct((splits, len(pools), tiles.num_rows, _RANKS), jnp.float32)
    by_page = (tiles.page, offset, tiles.low, tiles.high, tiles.weight)
    return _call(body, out, len(pools) + 8, interpret)(tiles.counts, tiles.tile, *by_page, x, *pools)


def _expand(
    h: jax.Array, pools: tuple[jax.Array, ...], tiles: LoraTiles, offset: jax.Array, dtype: jnp.dtype, interpret: bool
) -> jax.Array:
    """out[token, column of every target] = the sum of h's splits @ B over the tiles of each token's window."""
    block = _block(*(pool.shape[1] for pool in pools))
    starts = [0, *accumulate(pool.shape[1] // block for pool in pools)]

    def body(*refs: jax.Ref) -> None:
        counts, window, tile, page, offset, h, *pools, out = refs
        token, rank = jnp.arange(max(tiles.wide, 16)), jnp.arange(_RANKS)

        def unit(n: jax.Array) -> None:
            at, column = n // starts[-1], n % starts[-1]
            size = NARROW + window[at, 3] * (tiles.wide - NARROW)
            live = (token < size)[:, None]

            def product(which: int, pool: jax.Ref) -> None:
                columns = (column - starts[which]) * block + jnp.arange(block)

                def step(k: jax.Array, total: jax.Array) -> jax.Array:
                    a_tile = window[at, 1] + k
                    held = rank // ROWS < tile[a_tile, 2]
                    row = (tile[a_tile, 1] + token)[:, None]
                    hs = jnp.zeros((len(token), _RANKS), jnp.float32)
                    for split in range(h.shape[0]):
                        place = h.at[split, which, row, rank[None, :]]
                        hs = hs + plt.load(place, mask=live & held[None, :], other=0.0)
                    b_row = (plt.load(page.at[a_tile, rank // ROWS]) + offset[0]) * ROWS + rank % ROWS
                    rows = plt.load(pool.at[b_row[:, None], columns[None, :]], mask=held[:, None], other=0)
                    return total + plt.dot(hs.astype(dtype), rows)

                zeros = jnp.zeros((len(token), block), jnp.float32)
                total = lax.fori_loop(0, window[at, 2], step, zeros)
                place = out.at[(window[at, 0] + token)[:, None], (column * block + jnp.arange(block))[None, :]]
                plt.store(place, total.astype(dtype), mask=live & (columns >= 0)[None, :])

            for which, pool in enumerate(pools):
                is_its = (column >= starts[which]) & (column < starts[which + 1])
                pl.when(is_its)(functools.partial(product, which, pool))

        _units(counts[1] * starts[-1], unit)

    out = jax.ShapeDtypeStruct((tiles.window.shape[0] * NARROW, starts[-1] * block), dtype)
    call = _call(body, out, len(pools) + 6, interpret)
    return call(tiles.counts, tiles.window, tiles.tile, tiles.page, offset, h, *pools)


def _units(total: jax.Array, unit: Callable[[jax.Array], None]) -> None:
    """Run every unit that falls to this program."""
    first = pl.program_id(0)
    mine = (total - first + _PROGRAMS - 1) // _PROGRAMS
    lax.fori_loop(0, mine, lambda i, _: unit(first + i * _PROGRAMS), None)


def _call(
    body: Callable[..., None], out: jax.ShapeDtypeStruct, inputs: int, interpret: bool
) -> Callable[..., jax.Array]:
    return pl.pallas_call(
        body,
        out_shape=out,
        grid=(_PROGRAMS,),
        in_specs=[_ANY] * inputs,
        out_specs=_ANY,
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
    )
