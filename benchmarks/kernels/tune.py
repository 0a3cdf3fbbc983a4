"""The search for the fastest sizes of our LoRA kernels on this device. Owns: what is tried. Does not: write the table.

One field after the other is changed from the counted choice, then the best of each together. What gives other numbers
than the counted choice does not count.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import jax
import numpy as np

from benchmarks.kernels import ours
from benchmarks.kernels.bank import TOLERANCE, Bank, error_of
from benchmarks.kernels.cases import CASES, Case, Group, mixed
from benchmarks.kernels.timing import timed
from benchmarks.kernels.turns import Found, Task
from pallas_kernels.mosaic_lora import updates
from pallas_kernels.mosaic_parts import BLOCKS, Tuning, tuning
from pallas_kernels.tiles import wide_window
from pallas_kernels.work import LoraWork

_CASE = {case.name: case for case in CASES}
TUNED_CASES = (
    _CASE["decode-mixed"],
    _CASE["decode-8"],
    _CASE["prefill-2048"],
    Case("tune-16", mixed(16), 1, 16),
    Case("tune-256", mixed(8), 32, 256),
)
"""In an order in which an early end costs least."""
_TASK_S = 180.0
_COMPILERS = 6
_GAIN = 0.98
"""Of the counted choice's time: less is no more than noise."""
_TRIED: dict[str, tuple[int, ...]] = {
    "splits": (1, 2, 4, 8),
    "in_block": (64, 128, 256),
    "out_block": (64, 128, 192, 256),
    "repeats": (1, 2, 4),
    "in_stages": (2, 3, 4, 6, 8),
    "out_stages": (1, 2, 3, 4),
    "in_launch": (BLOCKS // 2, BLOCKS, 3 * BLOCKS // 2),
    "out_launch": (BLOCKS // 2, BLOCKS, 3 * BLOCKS // 2),
}


def candidates(counted: Tuning, group: Group) -> list[Tuning]:
    """Choices that differ from the counted one in one field and fit the widths; some may not fit the memory."""
    others = [
        changed(counted, field, value)
        for field, values in _TRIED.items()
        for value in values
        if value != asdict(counted)[field]
    ]
    return [how for how in others if _fits(how, group)]


def changed(how: Tuning, field: str, value: int) -> Tuning:
    """The same choice with another number in one field."""
    return Tuning(**{**asdict(how), field: value})


def _fits(how: Tuning, group: Group) -> bool:
    columns = how.out_block * how.repeats
    return group.width_in % (how.splits * how.in_block) == 0 and all(out % columns == 0 for out in group.widths_out)


def together(counted: Tuning, times_us: dict[Tuning, float]) -> Tuning:
    """The best value of each field at once."""
    best = dict(asdict(counted))
    for field in _TRIED:
        alone = {how: us for how, us in times_us.items() if how == changed(counted, field, asdict(how)[field])}
        best[field] = asdict(min(alone, key=alone.__getitem__))[field]
    return Tuning(**best)


def tasks(bank: Bank) -> Iterator[Task]:
    """One for each group and number of tokens."""
    inputs = functools.cache(lambda: ours.Inputs.of(bank, max(case.num_copies for case in bank.cases)))
    for case in bank.cases:
        for number, group in enumerate(bank.groups):
            run = functools.partial(_search, inputs, case, number)
            yield Task(f"{case.num_tokens} tokens/{group.name}", _TASK_S, run)


def _search(inputs: Callable[[], ours.Inputs], case: Case, number: int) -> Found:
    group, arguments = inputs().groups[number], inputs().arguments(case, case.num_layers, has_base=False)
    counted = tuning(case.num_tokens, wide_window(case.num_tokens), group.width_in, group.widths_out)
    measure = functools.partial(_measured, arguments, case, number, counted)
    times_us = measure([counted, *candidates(counted, group)])
    if _fits(both := together(counted, times_us), group):
        times_us |= measure([both])
    best = min(times_us, key=times_us.__getitem__)
    if times_us[best] > _GAIN * times_us[counted]:
        best = counted
    return {
        "num_tokens": case.num_tokens,
        "width_in": group.width_in,
        "widths_out": group.widths_out,
        "tuning": asdict(best),
        "us": times_us[best],
        "counted_us": times_us[counted],
        "tried": len(times_us),
    }


def _measured(
    arguments: tuple[object, ...], case: Case, number: int, counted: Tuning, choices: Iterable[Tuning]
) -> dict[Tuning, float]:
    """Microseconds of one group of a layer with each choice that compiles and gives the counted one's numbers."""

    def prepared(how: Tuning) -> Callable[[], list[jax.Array]] | None:
        call = functools.partial(_program(number, how), *arguments)
        try:
            jax.block_until_ready(call())
        except Exception:  # noqa: BLE001 - too large for the device, in one of many ways
            return None
        return call

    with ThreadPoolExecutor(_COMPILERS) as pool:
        ready = dict(zip(wanted := list(choices), pool.map(prepared, wanted), strict=True))
    right = _numbers(_program(number, counted)(*arguments), case)
    tolerance = TOLERANCE["bfloat16"]
    return {
        how: timed(_each_time(call), case.num_layers).us
        for how, call in ready.items()
        if call is not None and error_of(_numbers(call(), case), right) <= tolerance
    }


def _each_time(call: Callable[[], list[jax.Array]]) -> Callable[[int], object]:
    return lambda _: call()


def _numbers(outs: list[jax.Array], case: Case) -> list[np.ndarray]:
    return [np.asarray(outs[0][case.checked_rows()], np.float32)]


@functools.cache
def _program(number: int, how: Tuning) -> Callable[..., list[jax.Array]]:
    """As `ours.program`, of one group with one choice."""

    @jax.jit
    def layers(
        pools: tuple[tuple[ours.Page, ...], ...], xs: list[dict[int, jax.Array]], _: list[object], works: list[LoraWork]
    ) -> list[jax.Array]:
        own = [work.shifted(copy * ours.POOL_PAGES) for work in works for copy in range(len(xs))]
        width = pools[number][0][0].shape[2]
        return [
            updates(xs[place % len(xs)][width], pools[number], work, lambda *_: how) for place, work in enumerate(own)
        ]

    return layers
