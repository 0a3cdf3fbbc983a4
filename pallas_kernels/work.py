"""What one step computes, as arrays of numbers. Owns: the work-list records every kernel reads. Does not: build them.

The host builds both lists once per step (`lorajax/batch.py`) and all layers share them. Shapes depend on the bucket
alone, counts are data, so no rank mix compiles anything.
"""

from dataclasses import dataclass, replace
from typing import cast

import jax
import numpy as np
import numpy.typing as npt


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class LoraWork:
    """One item per (run, adapter page): the tokens of the run times the eight rank rows of the page.

    Items past `num_items` are padding and must not be read.
    """

    page: jax.Array  # [item] int32, device page
    start: jax.Array  # [item] int32, first token of the run
    count: jax.Array  # [item] int32, tokens of the run
    weight: jax.Array  # [item] float32, the request's weight for this adapter
    num_items: jax.Array  # [] int32

    def shifted(self, num_pages: int) -> "LoraWork":
        """The same work on pages that lie `num_pages` further on: those of a later layer in one pool."""
        return replace(self, page=self.page + num_pages)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWork:
    """Where each token's keys and values are written, and which it attends to.

    A token attends to positions 0 … `position` of its row (less where a window says so). Two lists name the same
    work tile by tile: tokens that are alone in their sequence (`decode_*`, longest context first) and tiles of
    neighbouring tokens of one sequence (`tile_*`). Entries past the two counts are padding.
    """

    row: jax.Array  # [token] int32, the token's row of `table`; padding tokens name row 0
    position: jax.Array  # [token] int32
    slot: jax.Array  # [token] int32, page * page_tokens + offset that its key and value go to; padding writes to page 0
    table: jax.Array  # [row, page] int32, device page of each page of the sequence; 0 past its end
    decode_token: jax.Array  # [decode] int32
    num_decode: jax.Array  # [] int32
    tile_token: jax.Array  # [tile] int32, first token
    tile_count: jax.Array  # [tile] int32, tokens, at most TILE_TOKENS
    num_tiles: jax.Array  # [] int32


def padded(values: npt.ArrayLike, shape: tuple[int, ...], dtype: npt.DTypeLike) -> jax.Array:
    """The values at the start of each axis, zeros after them, as a step takes it: numpy until the call."""
    out = np.zeros(shape, dtype)
    values = np.asarray(values, dtype)
    out[tuple(slice(size) for size in values.shape)] = values
    return cast(jax.Array, out)  # what the step will see of it


TILE_TOKENS = 64
"""Query tokens of one prefill tile."""
