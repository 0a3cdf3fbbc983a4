"""What the LoRA kernels for GPUs move and multiply, counted, and the time that would take. Owns: the counting.

Does not: measure.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.kernels.cases import ATTENTION, CASES, LLAMA_3_8B, STEP, Case, Group, layer_bytes
from benchmarks.kernels.judge import ESTIMATED, Found, Judge
from benchmarks.kernels.ours import work_of
from pallas_kernels.mosaic_parts import RANKS, Tuning, tuning
from pallas_kernels.work import NARROW, ROWS, LoraTiles, LoraWork

MEMORY, CACHE, CLOCKS = 4.3e12, 5.5e12, 132 * 1.755e9
"""Of an H200: bytes/s of memory (measured copy), bytes/s from L2 and cycles/s of all multiprocessors (assumed)."""
MATMUL = 780e12
"""FLOP/s of a product in bfloat16, on an H200."""
LAUNCH_S = 2.5e-6
_VALUE = 2
"""Bytes of a value."""
_STEP_LAYERS = 32
_STEP_BYTES = _VALUE * (_STEP_LAYERS * (4096 * 6144 + 4096**2 + 3 * 4096 * 14336 + 2 * 4096) + 4096 * 128257)
"""Weights that a step of Llama-3-8B reads."""
_STEP_KV_BYTES = 32 * 128 * _STEP_LAYERS * 2 * 8 * 128 * _VALUE
_ATTENTION_BYTES = 64 * 4096 * 2 * 8 * 128 * _VALUE


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


def cost(work: LoraWork, num_tokens: int, group: Group) -> Cost:
    """Of shrink and expand together, with the tuning that the kernels choose."""
    assert work.tiles is not None
    how = tuning(num_tokens, work.tiles.wide, group.width_in, group.widths_out)
    targets, width_out = len(group.widths_out), group.width_out
    pages = len(np.unique(work.page[: work.num_items]))
    rows, width = _tiles(work.tiles)
    cache = _shrink_bytes(rows, width, group.width_in, targets, how) + _expand_bytes(work.tiles, width_out, how)
    height = group.width_in / 16 * targets + width_out / RANKS * RANKS / 16 * how.splits
    moved = pages * ROWS * (targets * group.width_in + width_out) + num_tokens * (group.width_in + width_out)
    return Cost(
        memory_bytes=_VALUE * moved,
        cache_bytes=cache,
        cycles=float((height * np.maximum(width / 2, 16 + width / 4)).sum()),
    )


def layer_costs(case: Case, is_padded: bool = False) -> list[Cost]:
    """Of each group of one layer."""
    work = work_of(case, 0, is_padded)
    return [cost(work, case.num_tokens, group) for group in LLAMA_3_8B]


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


def judge() -> Judge:
    """Estimates in the place of measurements; peers are not estimated."""
    found: dict[str, dict[str, Found]] = {}
    for case in CASES:
        forms = {"mosaic": layer_costs(case), "padded": layer_costs(case, is_padded=True)}
        found[case.name] = {form: {"us": sum(one.seconds() for one in costs) * 1e6} for form, costs in forms.items()}
    mixed = next(case for case in CASES if case.name == "decode-mixed")
    base_us = (_STEP_BYTES + _STEP_KV_BYTES) / MEMORY * 1e6
    attention_us = (_ATTENTION_BYTES / MEMORY + 2 * LAUNCH_S) * 1e6
    found[ATTENTION] = {"mosaic": {"us": attention_us, "bytes": _ATTENTION_BYTES}}
    found[STEP] = {
        "base": {"us": base_us, "weight_bytes": _STEP_BYTES},
        "adapters": {
            "us": base_us + _STEP_LAYERS * found[mixed.name]["mosaic"]["us"],
            "lora_bytes": _STEP_LAYERS * layer_bytes(mixed, LLAMA_3_8B),
        },
    }
    return Judge(results=found, copy_bytes_per_s=MEMORY, matmul_flop_per_s=MATMUL)


def show() -> None:
    """Print the estimates, then each goal beside its own."""
    print("ESTIMATES from counts of bytes and instructions, one layer of Llama-3-8B on an H200; nothing is measured")
    print(f"{'case':16}{'µs':>8}{'floor':>8}{'L2':>8}{'cores':>8}{'padded':>8}   each group")
    estimated = judge()
    for case in CASES:
        costs = layer_costs(case)
        named = zip(LLAMA_3_8B, costs, strict=True)
        cells = ", ".join(f"{group.name} {one.seconds() * 1e6:.1f}" for group, one in named)
        cache, cores = sum(one.cache_bytes for one in costs) / CACHE, sum(one.cycles for one in costs) / CLOCKS
        us, padded = (estimated.us(case.name, form) for form in ("mosaic", "padded"))
        print(
            f"{case.name:16}{us:8.1f}{estimated.floor_us(case):8.1f}{cache * 1e6:8.1f}{cores * 1e6:8.1f}"
            f"{padded:8.1f}   {cells}"
        )
    print(*(goal.line(ESTIMATED) for goal in estimated.goals()), sep="\n")
