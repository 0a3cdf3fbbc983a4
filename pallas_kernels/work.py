"""What one step computes, as arrays of numbers. Owns: the work-list records every kernel reads. Does not: build them.

The host builds both lists once per step (`lorajax/batch.py`) and all layers share them. Shapes depend on the bucket
alone, counts are data, so no rank mix compiles anything.
"""

from dataclasses import dataclass, field, replace
from typing import cast

import jax
import numpy as np
import numpy.typing as npt

ROWS = 8
"""Rank rows of one adapter page."""

TILE_PAGES = 8
"""Adapter pages that a GPU multiplies at once: their rows are the 64 of its matrix unit."""

NARROW = 8
"""Tokens of a narrow window."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTiles:
    """The items of a `LoraWork` as GPU kernels read them.

    Windows split the tokens, each eight or `wide` of them from a multiple of eight on. A tile is up to eight pages
    times the tokens of one window, whichever adapters they are of: the tokens that use a page are `low` … `high` of
    the window, and a page in a slot past the tile's own is 0. Each tile has rows of its own in the intermediate h.
    Padding tiles and windows must not be read.
    """

    page: jax.Array  # [tile, slot] int32
    low: jax.Array  # [tile, slot] int32
    high: jax.Array  # [tile, slot] int32
    weight: jax.Array  # [tile, slot] float32
    tile: jax.Array  # [tile, 4] int32: first token, first row of h, pages, whether wide
    window: jax.Array  # [window, 4] int32: first token, first tile, tiles, whether wide; most tiles first
    counts: jax.Array  # [2] int32: tiles, windows
    wide: int = field(metadata={"static": True})
    num_rows: int = field(metadata={"static": True})
    """Rows of h, at most."""
    first_page: int = field(default=0, metadata={"static": True})
    """What is added to every page: where the layer's own begin."""


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
    tiles: LoraTiles | None = None
    """The same work for GPU kernels, where `tiled` has added it."""

    def shifted(self, num_pages: int) -> "LoraWork":
        """The same work on pages that lie `num_pages` further on: those of a later layer in one pool."""
        tiles = self.tiles and replace(self.tiles, first_page=self.tiles.first_page + num_pages)
        return replace(self, page=self.page + num_pages, tiles=tiles)


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
