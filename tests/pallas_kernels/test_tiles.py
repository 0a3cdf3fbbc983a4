"""Tiles hold the work list and nothing else: every token meets its own pages once, whatever the mix."""

from itertools import pairwise

import numpy as np
import pytest

from pallas_kernels.cases import LORA_CASES
from pallas_kernels.tiles import tiled, wide_window
from pallas_kernels.work import NARROW, LoraWork, padded
from tests.pallas_kernels import claims


def drawn(seed):
    """(work, tokens, pages of the pool) of runs of a few kinds of length and rank, some of them of the base."""
    rng = np.random.default_rng(seed)
    num_tokens, most = int(rng.choice([1, 5, 8, 32, 40, 64, 200, 512])), int(rng.choice([1, 3, 20, 100]))
    items, at = [], 0
    while (length := int(rng.integers(1, most + 1))) + at <= num_tokens:
        pages = rng.choice(300, int(rng.choice([0, 1, 2, 9, 16, 128])), replace=False)
        items += [(page, at, length, weight) for page, weight in zip(pages, rng.normal(size=len(pages)), strict=True)]
        at += length
    size = (num_tokens * 128,)
    page, start, count, weight = np.array(items).T if items else np.zeros((4, 0))
    work = LoraWork(
        page=padded(page, size, np.int32),
        start=padded(start, size, np.int32),
        count=padded(count, size, np.int32),
        weight=padded(weight, size, np.float32),
        num_items=padded(len(items), (), np.int32),
    )
    return work, num_tokens, 300


def meetings_of_items(work):
    """Sorted (token, page, weight) of every use."""
    fields = (np.asarray(field)[: work.num_items] for field in (work.page, work.start, work.count, work.weight))
    uses = [
        (at, page, weight) for page, start, n, weight in zip(*fields, strict=True) for at in range(start, start + n)
    ]
    return sorted(uses)


def meetings_of_tiles(tiles):
    uses = []
    for tile in range(tiles.counts[0]):
        token, _, pages, _ = tiles.tile[tile]
        for slot in range(pages):
            low, high = tiles.low[tile, slot], tiles.high[tile, slot]
            uses += [(token + at, tiles.page[tile, slot], tiles.weight[tile, slot]) for at in range(low, high)]
    return sorted(uses)


def sizes(tiles, is_wide):
    return np.where(is_wide, tiles.wide, NARROW)


each_seed = pytest.mark.parametrize("seed", range(40))


@each_seed
def test_every_token_meets_its_own_pages_once(seed):
    work, num_tokens, num_pages = drawn(seed)
    assert meetings_of_tiles(tiled(work, num_tokens, num_pages).tiles) == meetings_of_items(work)


@each_seed
def test_windows_split_the_tokens(seed):
    work, num_tokens, num_pages = drawn(seed)
    tiles = tiled(work, num_tokens, num_pages).tiles
    window = tiles.window[: tiles.counts[1]]
    covered = sorted(
        (first, first + size) for first, size in zip(window[:, 0], sizes(tiles, window[:, 3]), strict=True)
    )
    assert all(end == first for (_, end), (first, _) in pairwise(covered))
    assert covered[0][0] == 0
    assert covered[-1][1] == -(-num_tokens // NARROW) * NARROW


@each_seed
def test_a_window_has_its_tiles_and_their_rows_in_one_piece(seed):
    work, num_tokens, num_pages = drawn(seed)
    tiles = tiled(work, num_tokens, num_pages).tiles
    for token, first, count, is_wide in tiles.window[: tiles.counts[1]]:
        own = tiles.tile[first : first + count]
        assert (own[:, 0] == token).all()
        assert (own[:, 3] == is_wide).all()
        assert (np.diff(own[:, 1]) == sizes(tiles, is_wide)).all()
    rows = tiles.tile[: tiles.counts[0], 1]
    assert rows.max(initial=0) + tiles.wide <= tiles.num_rows


@each_seed
def test_windows_with_most_work_come_first(seed):
    work, num_tokens, num_pages = drawn(seed)
    tiles = tiled(work, num_tokens, num_pages).tiles
    assert (np.diff(tiles.window[: tiles.counts[1], 2]) <= 0).all()


@pytest.mark.parametrize("num_adapters", [1, 2, 4, 8, 16, 32])
def test_a_decoding_step_reads_each_page_once(num_adapters):
    length = 32 // num_adapters
    pages = [(adapter * 16 + i, adapter * length, length) for adapter in range(num_adapters) for i in range(16)]
    page, start, count = np.array(pages).T
    size = (512,)
    work = LoraWork(
        page=padded(page, size, np.int32),
        start=padded(start, size, np.int32),
        count=padded(count, size, np.int32),
        weight=padded(np.ones(len(pages)), size, np.float32),
        num_items=padded(len(pages), (), np.int32),
    )
    tiles = tiled(work, 32, 512).tiles
    assert tiles.tile[: tiles.counts[0], 2].sum() == len(pages)


@pytest.mark.parametrize(("num_tokens", "wanted"), [(1, 8), (8, 8), (15, 8), (16, 16), (32, 32), (40, 32), (4096, 64)])
def test_a_wide_window_is_no_longer_than_the_step(num_tokens, wanted):
    assert wide_window(num_tokens) == wanted


@pytest.mark.parametrize("page", [-1, 136])
def test_a_page_that_the_pool_lacks_is_refused(page):
    _, _, work = claims.lora_inputs(LORA_CASES[0], "float32")
    work = LoraWork(
        page=padded([page], (4,), np.int32),
        start=padded([0], (4,), np.int32),
        count=padded([1], (4,), np.int32),
        weight=padded([1.0], (4,), np.float32),
        num_items=padded(1, (), np.int32),
    )
    with pytest.raises(ValueError, match=f"got page {page} … {page} in a work list, wanted pages of a pool of 136"):
        tiled(work, 32, 136)


def test_a_run_past_the_step_is_refused():
    _, _, work = claims.lora_inputs(LORA_CASES[0], "float32")
    with pytest.raises(ValueError, match="got a run that is not within the step's 16 tokens"):
        tiled(work, 16, 136)


def test_tiles_of_a_later_layer_differ_in_no_array():
    _, _, work = claims.lora_inputs(LORA_CASES[0], "float32")
    prepared = tiled(work, 32, 136)
    assert prepared.shifted(100).tiles.first_page == 100
    assert prepared.shifted(100).tiles.page is prepared.tiles.page
