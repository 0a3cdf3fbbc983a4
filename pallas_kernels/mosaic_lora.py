"""Grouped LoRA for Hopper GPUs: shrink, then expand. Owns: how the two meet. Does not: hold a kernel.

What the kernels read follows the pages of the tiles (`LoraTiles`), never the largest rank. Counts and pages are read
on the device, so no rank mix compiles anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import jax
import jax.numpy as jnp

from pallas_kernels.mosaic_expand import expand
from pallas_kernels.mosaic_parts import Tuning
from pallas_kernels.mosaic_shrink import shrink
from pallas_kernels.tiles import checked
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


def updates(x: jax.Array, pages: Sequence[Page], work: LoraWork, tune: Tune = tuning) -> jax.Array:
    """The updates of all targets side by side as the kernels leave them: [token, out of every target] in x.dtype."""
    tiles = checked(x, pages, work)
    rounded = jnp.pad(x, ((0, -x.shape[0] % NARROW), (0, 0)))
    how = tune(x.shape[0], tiles.wide, x.shape[1], tuple(b.shape[2] for _, b in pages))
    offset, tiles = jnp.full(1, tiles.first_page, jnp.int32), replace(tiles, first_page=0)  # layers share one kernel
    h = shrink(rounded, tuple(a for a, _ in pages), tiles, offset, how)
    return expand(h, tuple(b for _, b in pages), tiles, offset, how)[: x.shape[0]]
