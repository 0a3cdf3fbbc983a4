"""Grouped LoRA for Hopper GPUs: shrink, then expand. Owns: how the two meet. Does not: hold a kernel.

What the kernels read follows the pages of the tiles (`LoraTiles`), never the largest rank. Counts and pages are read
on the device, so no rank mix compiles anything.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.mosaic_expand import expand
from pallas_kernels.mosaic_parts import Tuning
from pallas_kernels.mosaic_shrink import shrink
from pallas_kernels.tiles import COLUMNS, checked
from pallas_kernels.tuned import tuning
from pallas_kernels.work import NARROW, LoraWork

type Page = tuple[jax.Array, jax.Array]
type Tune = Callable[[int, int, int, Sequence[int]], Tuning]


def grouped_lora(x: jax.Array, pages: Sequence[Page], work: LoraWork, tune: Tune = tuning) -> tuple[jax.Array, ...]:
    """Same meaning as `xla_lora.grouped_lora`, but each update is rounded to x.dtype.

    Pages must be finite, as the loader makes sure: one product may hold pages of several adapters, each multiplied by
    zero for the tokens of the others.
    Raises: NotImplementedError for shapes and dtypes that the kernels do not take.
    """
    cuts = list(accumulate(b.shape[2] for _, b in pages))[:-1]
    return tuple(part.astype(jnp.float32) for part in jnp.split(updates(x, pages, work, tune), cuts, axis=1))


def updates(x: jax.Array, pages: Sequence[Page], work: LoraWork, tune: Tune = tuning, groups: int = 1) -> jax.Array:
    """The updates of all targets as the kernels leave them: [token, out of every target] in x.dtype.

    Each target's columns are cut into so many parts; side by side lie a part of every target, then the next of each.
    """
    tiles = checked(x, pages, work)
    widths = tuple(b.shape[2] for _, b in pages)
    if any(width % (groups * COLUMNS) for width in widths):
        raise NotImplementedError(f"got {groups} parts of {widths} columns, wanted parts of a multiple of {COLUMNS}")
    rounded = jnp.pad(x, ((0, -x.shape[0] % NARROW), (0, 0)))
    how = tune(x.shape[0], tiles.wide, x.shape[1], widths)
    how = replace(how, out_block=math.gcd(how.out_block, *(width // groups for width in widths)))
    offset, tiles = jnp.full(1, tiles.first_page, jnp.int32), replace(tiles, first_page=0)  # layers share one kernel
    h = shrink(rounded, tuple(a for a, _ in pages), tiles, offset, how)
    return expand(h, tuple(b for _, b in pages), tiles, offset, how, groups)[: x.shape[0]]


def adapted(
    _ops: object, x: jax.Array, kernel: jax.Array, pages: Sequence[Page], work: LoraWork, tune: Tune = tuning
) -> jax.Array:
    """The product and its updates in x.dtype, added before anything is rounded: see `Ops.adapted`.

    The updates lie as the kernel's columns do, so that they are the addend of the one call that multiplies.
    Raises: NotImplementedError for shapes and dtypes that the kernels do not take.
    """
    added = updates(x, pages, work, tune, math.prod(kernel.shape[1:-2]))
    return (lax.dot(x, kernel.reshape(x.shape[1], -1)) + added).reshape(-1, *kernel.shape[1:])
