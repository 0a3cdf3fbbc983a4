"""Time of device work, and what the device can do at best. Owns: the clock and the two ceilings. Does not: judge.

A program is called back to back and waited for once: while the host is ahead, the time is the device's. Programs hold
many layers, so that a call takes longer than it takes to issue one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

_ROUNDS = 7
_ROUND_S = 0.04
_MOST_CALLS = 100
_MOST_BYTES = 8 * 2**30
"""Of the outputs of one round, which may all be held until it is over."""
_HOST_BOUND = 0.9
"""Share of the time in which calls are issued, from which on the device may have waited for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Microseconds of one of the parts that a call does."""

    us: float
    """Median of the rounds."""
    us_low: float
    us_high: float
    calls: int
    """Of one round."""
    rounds: int
    is_host_bound: bool
    """Whether the host took so long to issue calls that the time may be its own."""


def timed(call: Callable[[int], object], parts: int) -> Timing:
    """Time of `call(0)`, `call(1)` …, each of which does so many parts; the first calls are not counted.

    `call` returns arrays that are not ready; whichever buffers it rotates must exceed the caches.
    """
    first_s = min(_round(call, 1)[0] for _ in range(3))
    out_bytes = sum(array.nbytes for array in jax.tree.leaves(call(0)))
    calls = int(np.clip(min(_ROUND_S / first_s, _MOST_BYTES / out_bytes), 1, _MOST_CALLS))
    rounds = [_round(call, calls) for _ in range(_ROUNDS)]
    times_us = np.array([total_s for total_s, _ in rounds]) / (calls * parts) * 1e6
    low, median, high = map(float, np.quantile(times_us, (0.25, 0.5, 0.75)))
    host_share = float(np.median([issued_s / total_s for total_s, issued_s in rounds]))
    return Timing(
        us=median,
        us_low=low,
        us_high=high,
        calls=calls,
        rounds=_ROUNDS,
        is_host_bound=calls > 1 and host_share > _HOST_BOUND,
    )


def _round(call: Callable[[int], object], calls: int) -> tuple[float, float]:
    """(seconds until all is done, seconds until all is issued)."""
    start_s = time.perf_counter()
    for number in range(calls):
        out = call(number)
    issued_s = time.perf_counter() - start_s
    jax.block_until_ready(out)
    return time.perf_counter() - start_s, issued_s


def ceilings(num_bytes: int, side: int) -> dict[str, float]:
    """Bytes/s of a copy of `num_bytes` (read and written both count), FLOP/s of a bfloat16 product; on random data."""
    source = jax.random.normal(jax.random.key(0), (num_bytes // 2,), jnp.bfloat16)
    copied = jax.jit(lambda x: -x)
    copy = timed(lambda _: copied(source), 1)
    source.delete()
    square = jax.random.normal(jax.random.key(1), (side, side), jnp.bfloat16)
    multiplied = jax.jit(lambda x: x @ x)
    product = timed(lambda _: multiplied(square), 1)
    return {
        "copy_bytes_per_s": 2 * num_bytes / copy.us * 1e6,
        "matmul_flop_per_s": 2 * side**3 / product.us * 1e6,
    }
