"""From measured steps to a step model. Owns: the least squares, and how far the model is off. Does not: measure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.simulator.device import Shapes, StepModel, StepWork

type Numbers = NDArray[np.float64]

_MIN_STEPS = 8
"""Of one shape; with fewer its time is that of the next larger one that has as many, or else the nearest smaller."""
_TOO_LONG = 10.0
_COSTS = (
    "context_s",
    "attended_s",
    "sequence_s",
    "adapters_s",
    "adapter_token_s",
    "row_s",
    "prefill_row_s",
    "decode_row_s",
)
"""Fields of `StepModel`, besides its shapes, in the order of `_columns`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step that was measured."""

    work: StepWork
    shape_tokens: int
    """What it was padded to."""
    num_writes: int
    """Adapter pages written to the device before it."""
    seconds: float
    """Until the next step could begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What least squares made of measured steps."""

    step: StepModel
    write_s: float
    """For each adapter page."""
    num_steps: int
    median_error: float
    """Of a step, as a part of its time."""
    p95_error: float
    total_error: float
    """Of the sum of all steps: positive where the model is slower."""
    jitter: tuple[float, ...]
    """What each step took, as a part of what the model says, over the mean of that."""


def fitted(steps: Sequence[Step]) -> Fit:
    """The model with the smallest squared error, relative to what is usual for the shape; no cost is below zero.

    Steps that took ten times what is usual are left out of the fit, but not out of the errors.
    Raises: ValueError where no shape was measured often enough.
    """
    kinds = sorted({(bool(step.work.prefill_tokens), step.shape_tokens) for step in steps})
    columns = np.array([_columns(step, kinds) for step in steps])
    seconds = np.array([step.seconds for step in steps])
    usual = _usual(seconds, columns[:, : len(kinds)].astype(bool))
    kept = seconds < _TOO_LONG * usual
    # Columns and rows of like size: what is solved well is what counts.
    scale = np.maximum(columns.max(axis=0), 1.0)
    cost = nnls((columns / scale / usual[:, None])[kept], (seconds / usual)[kept])[0] / scale
    counts = columns[:, : len(kinds)].sum(axis=0)
    model = columns @ cost
    error = model - seconds
    ratios = np.clip(seconds / np.maximum(model, seconds / _TOO_LONG), 1 / _TOO_LONG, None)
    costs = dict(zip((*_COSTS, "write_s"), cost[len(kinds) :].tolist(), strict=True))
    write_s = costs.pop("write_s")
    times = {kind: (float(second), int(count)) for kind, second, count in zip(kinds, cost, counts, strict=False)}
    return Fit(
        step=StepModel(
            base=Shapes(decode=_shapes(times, is_mixed=False), mixed=_shapes(times, is_mixed=True)),
            **costs,
        ),
        write_s=write_s,
        num_steps=len(steps),
        median_error=float(np.median(np.abs(error) / seconds)),
        p95_error=float(np.quantile(np.abs(error) / seconds, 0.95)),
        total_error=float(error.sum() / seconds.sum()),
        jitter=tuple((ratios / ratios.mean()).tolist()),
    )


def _columns(step: Step, kinds: Sequence[tuple[bool, int]]) -> list[float]:
    """What each unknown cost is multiplied by: one for every shape, then `_COSTS`, then page writes."""
    work = step.work
    kind = bool(work.prefill_tokens), step.shape_tokens
    ranked = [(tokens, rank, count) for tokens, by_rank in _by_rank(work) for rank, count in by_rank.items() if rank]
    return [
        *(float(kind == one) for one in kinds),
        work.context_tokens,
        work.attended_pairs,
        work.decode_sequences,
        bool(work.adapter_ranks),
        sum(count for _, _, count in ranked),
        sum(work.adapter_ranks),
        *(sum(rank * count for tokens, rank, count in ranked if tokens == part) for part in ("prefill", "decode")),
        step.num_writes,
    ]


def _by_rank(work: StepWork) -> tuple[tuple[str, dict[int, int]], ...]:
    return ("prefill", dict(work.prefill_by_rank)), ("decode", dict(work.decode_by_rank))


def _usual(seconds: Numbers, is_kind: NDArray[np.bool_]) -> Numbers:
    """The median of its shape, for each step."""
    usual = np.zeros(len(seconds))
    for column in is_kind.T:
        usual[column] = np.median(seconds[column])
    return usual


def _shapes(times: dict[tuple[bool, int], tuple[float, int]], *, is_mixed: bool) -> tuple[tuple[int, float], ...]:
    """Shapes that were measured often, never cheaper than a smaller one."""
    found: list[tuple[int, float]] = []
    for (mixed, tokens), (second, count) in sorted(times.items()):
        if mixed is is_mixed and count >= _MIN_STEPS:
            found.append((tokens, max(second, found[-1][1] if found else 0.0)))
    if not found:
        kind = "with prompt tokens" if is_mixed else "that only decode"
        raise ValueError(f"fewer than {_MIN_STEPS} steps {kind} were measured for every shape; measure for longer")
    return tuple(found)
