"""What the LoRA kernels for GPUs move and multiply, counted, and the time that would take. Owns: the counting.

Does not: measure. `python -m benchmarks.kernels_estimate` prints one layer of Llama-3-8B for the cases with a goal.
"""

from dataclasses import dataclass

import numpy as np

from pallas_kernels.mosaic_parts import RANKS, Tuning, tuning
from pallas_kernels.tiles import SET_PAGES, tiled
from pallas_kernels.work import NARROW, ROWS, LoraTiles, LoraWork, padded

LAYER = {
    "qkv": (4096, (4096, 1024, 1024)),
    "out": (4096, (4096,)),
    "gate and up": (4096, (14336, 14336)),
    "down": (14336, (4096,)),
}
"""(in, out of each target) of each group of linear layers that share their input."""

MEMORY, CACHE, CLOCKS = 4.3e12, 5.5e12, 132 * 1.755e9
"""Of an H200: bytes/s of memory (measured copy), bytes/s from L2 and cycles/s of all multiprocessors (assumed)."""
LAUNCH_S = 2.5e-6
_VALUE = 2
"""Bytes of a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What two launches move and multiply."""

    memory_bytes: float
    """What must cross the memory bus: every page once, inputs and updates once."""
    cache_bytes: float
    """What multiprocessors load and store, most of it from and to L2."""
    cycles: float
    """Of tensor cores, over all multiprocessors."""

    def seconds(self) -> float:
        """Two launches, and the slowest of memory, cache and tensor cores."""
        busy = max(self.memory_bytes / MEMORY, self.cache_bytes / CACHE, self.cycles / CLOCKS)
        return 2 * LAUNCH_S + busy


def runs(ranks: list[int], tokens_each: int = 1) -> tuple[LoraWork, int]:
    """(work, tokens) of one run of so many tokens for each adapter."""
    pages = [-(-rank // ROWS) for rank in ranks]
    num_pages, size = sum(pages), (len(ranks) * SET_PAGES,)
    work = LoraWork(
        page=padded(np.arange(1, num_pages + 1), size, np.int32),
        start=padded(np.repeat(np.arange(len(ranks)) * tokens_each, pages), size, np.int32),
        count=padded(np.full(num_pages, tokens_each), size, np.int32),
        weight=padded(np.ones(num_pages), size, np.float32),
        num_items=padded(num_pages, (), np.int32),
    )
    num_tokens = len(ranks) * tokens_each
    return tiled(work, num_tokens, num_pages + 1), num_tokens


def cost(work: LoraWork, num_tokens: int, width_in: int, widths_out: tuple[int, ...]) -> Cost:
    """Of shrink and expand together, with the tuning that the kernels choose."""
    assert work.tiles is not None
    how = tuning(num_tokens, work.tiles.wide, width_in, widths_out)
    targets, width_out = len(widths_out), sum(widths_out)
    pages = len(np.unique(work.page[: work.num_items]))
    rows, width = _tiles(work.tiles)
    cache = _shrink_bytes(rows, width, width_in, targets, how) + _expand_bytes(work.tiles, width_out, how)
    height = width_in / 16 * targets + width_out / RANKS * RANKS / 16 * how.splits
    return Cost(
        memory_bytes=_VALUE * (pages * ROWS * (targets * width_in + width_out) + num_tokens * (width_in + width_out)),
        cache_bytes=cache,
        cycles=float((height * np.maximum(width / 2, 16 + width / 4)).sum()),
    )


def _tiles(tiles: LoraTiles) -> tuple[np.ndarray, np.ndarray]:
    """Rank rows and tokens of every tile."""
    tile = np.asarray(tiles.tile)[: int(tiles.counts[0])]
    return tile[:, 2] * ROWS, np.where(tile[:, 3], tiles.wide, NARROW)


def _shrink_bytes(rows: np.ndarray, width: np.ndarray, width_in: int, targets: int, how: Tuning) -> float:
    readers = 1 if how.is_fused else targets
    loads = (rows * targets + width * readers) * width_in
    return float(_VALUE * (loads + width * RANKS * targets * how.splits).sum())


def _expand_bytes(tiles: LoraTiles, width_out: int, how: Tuning) -> float:
    rows, width = _tiles(tiles)
    window = np.asarray(tiles.window)[: int(tiles.counts[1])]
    units = width_out / (how.out_block * how.repeats)
    again = np.repeat(np.where(window[:, 2] <= how.out_stages, 1, how.repeats), window[:, 2])
    stores = np.where(window[:, 3], tiles.wide, NARROW).sum() * width_out
    return float(_VALUE * ((rows * width_out + width * RANKS * how.splits * units * again).sum() + stores))


def mixed(count: int) -> list[int]:
    """Ranks 8 … 128, in turns."""
    return [[8, 16, 32, 64, 128][i % 5] for i in range(count)]


CASES = {
    "decode, 1 adapter of rank 64": runs([64]),
    "decode, 8 adapters of 8 … 128": runs(mixed(8)),
    "decode, 32 adapters of 8 … 128": runs(mixed(32)),
    "decode, 32 of rank 8": runs([8] * 32),
    "decode, 31 of rank 8, one of 128": runs([8] * 31 + [128]),
    "decode, 32 of rank 128": runs([128] * 32),
    "decode, 64 adapters of 8 … 128": runs(mixed(64)),
    "prefill 2048, 8 adapters": runs(mixed(8), 256),
    "prefill 8192, 8 adapters": runs(mixed(8), 1024),
}


def main() -> None:
    """Print the table."""
    print("one layer of Llama-3-8B, microseconds: estimate of eight launches, floor of the bytes; bytes from L2")
    for name, (work, num_tokens) in CASES.items():
        costs = [cost(work, num_tokens, *widths) for widths in LAYER.values()]
        estimate, floor = sum(c.seconds() for c in costs), sum(c.memory_bytes for c in costs) / MEMORY
        cells = " ".join(f"{group} {c.seconds() * 1e6:.1f}" for group, c in zip(LAYER, costs, strict=True))
        cache, math = sum(c.cache_bytes for c in costs), sum(c.cycles for c in costs) / CLOCKS
        print(
            f"{name:34s} {estimate * 1e6:7.1f} floor {floor * 1e6:6.1f} "
            f"L2 {cache / CACHE * 1e6:6.1f} tensor cores {math * 1e6:6.1f} | {cells}"
        )


if __name__ == "__main__":
    main()
