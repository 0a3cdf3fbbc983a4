"""A LoRA work list as tiles for GPU kernels. Owns: windows of tokens, which pages meet which, and what is refused.

Does not: know what a kernel does with them. The tiles are made in numpy, a few dozen passes over short lists for each
step.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from pallas_kernels.work import NARROW, ROWS, TILE_PAGES, LoraTiles, LoraWork, padded

COLUMNS = 64
"""Columns of 16 bits that lie together in shared memory: 128 bytes."""

type Page = tuple[jax.Array, jax.Array]

SET_PAGES = 128
"""Adapter pages of one run, at most."""

_TILE_ROWS = 64
"""What a tile costs beside its window: the rows of its pages."""


def wide_window(num_tokens: int) -> int:
    """Tokens of a wide window in a step of this many tokens: all of them where they are few."""
    return min(max(NARROW, 1 << (num_tokens.bit_length() - 1)), 64)


def tiled(work: LoraWork, num_tokens: int, num_pages: int) -> LoraWork:
    """The work with its tiles; tokens from `num_tokens` on are no part of the step, nor pages from `num_pages` on.

    Raises: ValueError if an item names a page or tokens that there are not: no kernel checks them again.
    """
    count = int(work.num_items)
    page, start, tokens = (np.asarray(field)[:count] for field in (work.page, work.start, work.count))
    if page.size and not (page.min() >= 0 and page.max() < num_pages):
        raise ValueError(f"got page {page.min()} … {page.max()} in a work list, wanted pages of a pool of {num_pages}")
    if page.size and not (start.min() >= 0 and (start + tokens).max() <= num_tokens and tokens.min() > 0):
        raise ValueError(f"got a run that is not within the step's {num_tokens} tokens in a work list")
    wide = wide_window(num_tokens)
    first, size = _windows(start, tokens, num_tokens, wide)
    at, item = _meetings(start, tokens, first)
    held = np.bincount(at, minlength=len(first))
    num_tiles = -(-held // TILE_PAGES)
    first_tile = np.cumsum(num_tiles) - num_tiles
    nth = np.arange(len(item)) - (np.cumsum(held) - held)[at]  # which of its window's pages it is
    slot = first_tile[at] * TILE_PAGES + nth
    of_tile = np.repeat(np.arange(len(first)), num_tiles)
    rows = size[of_tile]
    pages = np.bincount(slot // TILE_PAGES, minlength=len(of_tile))
    order = np.argsort(-num_tiles, kind="stable")
    tile = np.stack([first[of_tile], np.cumsum(rows) - rows, pages, rows > NARROW], axis=1)
    window = np.stack([first, first_tile, num_tiles, size > NARROW], axis=1)[order]
    capacity, num_rows = _capacity(num_tokens, wide, len(work.page))

    def slots(values: np.ndarray) -> np.ndarray:
        out = np.zeros(capacity * TILE_PAGES, values.dtype)
        out[slot] = values
        return out.reshape(capacity, TILE_PAGES)

    tiles = LoraTiles(
        page=padded(slots(page[item]), (capacity, TILE_PAGES), np.int32),
        low=padded(slots(np.maximum(start[item] - first[at], 0)), (capacity, TILE_PAGES), np.int32),
        high=padded(slots(np.minimum((start + tokens)[item] - first[at], size[at])), (capacity, TILE_PAGES), np.int32),
        weight=padded(slots(np.asarray(work.weight)[item]), (capacity, TILE_PAGES), np.float32),
        tile=padded(tile, (capacity, 4), np.int32),
        window=padded(window, (-(-num_tokens // NARROW), 4), np.int32),
        counts=padded([len(of_tile), len(first)], (2,), np.int32),
        wide=wide,
        num_rows=num_rows,
    )
    return replace(work, tiles=tiles)


def checked(x: jax.Array, pages: Sequence[Page], work: LoraWork) -> LoraTiles:
    """The tiles of the work, if a kernel can take all this.

    Raises: NotImplementedError saying what was got and what was wanted.
    """
    matrices = [m for pair in pages for m in pair]
    dtypes = sorted({str(array.dtype) for array in (x, *matrices)})
    widths = sorted({array.shape[-1] for array in (x, *matrices)})
    if work.tiles is None:
        raise NotImplementedError("got a work list without tiles, wanted one that went through `tiled`")
    if dtypes not in (["bfloat16"], ["float16"]):
        raise NotImplementedError(f"got {', '.join(dtypes)}, wanted bfloat16 or float16 throughout")
    if any(width % COLUMNS for width in widths):
        raise NotImplementedError(f"got widths {widths}, wanted multiples of {COLUMNS}")
    if any(m.shape[1] != ROWS for m in matrices):
        raise NotImplementedError(f"got pages of {sorted({m.shape[1] for m in matrices})} rows, wanted {ROWS}")
    return work.tiles


def _windows(start: np.ndarray, tokens: np.ndarray, num_tokens: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """First token and size of each window: a wide one where its pages are read less often than by narrow ones."""
    cells = -(-num_tokens // NARROW)
    groups = num_tokens // wide
    narrow_cost = (_TILE_ROWS + NARROW) * -(-_counts(start, tokens, NARROW, cells) // TILE_PAGES)
    wide_cost = (_TILE_ROWS + wide) * -(-_counts(start, tokens, wide, groups) // TILE_PAGES)
    per_group = wide // NARROW
    is_wide = wide_cost < narrow_cost[: groups * per_group].reshape(groups, per_group).sum(1)
    inside = np.repeat(is_wide, per_group)  # of each cell: whether a wide window holds it
    cell = np.arange(cells)
    is_first = np.ones(cells, bool)
    is_first[: len(inside)] = ~inside | (cell[: len(inside)] % per_group == 0)
    size = np.full(cells, NARROW)
    size[: len(inside)][inside] = wide
    return cell[is_first] * NARROW, size[is_first]


def _counts(start: np.ndarray, tokens: np.ndarray, width: int, windows: int) -> np.ndarray:
    """Items that meet each of the first windows of this width."""
    change = np.zeros(max(windows, (int((start + tokens).max(initial=0)) - 1) // width + 1) + 1, np.int64)
    np.add.at(change, start // width, 1)
    np.add.at(change, (start + tokens - 1) // width + 1, -1)
    return np.cumsum(change)[:windows]


def _meetings(start: np.ndarray, tokens: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(window, item) of every meeting of an item with a window, by window, items in their order."""
    low = np.searchsorted(first, start, side="right") - 1
    many = np.searchsorted(first, start + tokens - 1, side="right") - low
    item = np.repeat(np.arange(len(start)), many)
    at = low[item] + np.arange(len(item)) - (np.cumsum(many) - many)[item]
    order = np.argsort(at, kind="stable")
    return at[order], item[order]


def _capacity(num_tokens: int, wide: int, num_items: int) -> tuple[int, int]:
    """Tiles and rows of h that a step can need: a window's border cuts one run, whose pages count on both sides.

    Narrow windows are taken only where they cost less, so they have but so many more tiles.
    """
    borders = num_tokens // wide + num_tokens % wide // NARROW + 1
    in_wide = -(-(num_items + borders * min(num_items, SET_PAGES)) // TILE_PAGES) + borders
    in_narrow = in_wide * -(-(_TILE_ROWS + wide) // (_TILE_ROWS + NARROW))
    return in_narrow, max(in_wide * wide, in_narrow * NARROW)
