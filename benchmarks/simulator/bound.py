"""What no placement and no routing could beat. Owns: the bound and its arithmetic. Does not: simulate.

All hosts are one that is so many times as fast; demand is known, adapters are everywhere, any work can be split, and
every token costs its own rank. Only what must have been done by a moment is counted, at the rate of the fullest step.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulator.device import StepModel, StepWork
from benchmarks.simulator.hardware import Hardware
from benchmarks.workloads.records import Workload
from lorajax.limits import EngineLimits

type Numbers = NDArray[np.float64]

_NUM_EDGES = 33
"""Moments between which every window of arrivals is looked at: each gives a bound, the tightest is taken."""
_NUM_RATES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A workload on so many hosts, as far as bounds go."""

    num_hosts: int
    alone_s: float
    """The quantile of first tokens where every request has a host to itself."""
    windows: tuple[tuple[float, float], ...]
    """(seconds of arrivals, host-seconds that must be done by the target after the last of them)."""

    @property
    def ttft_s(self) -> float:
        """No system has a lower quantile of the time to first token."""
        return max(self.alone_s, *(work_s / self.num_hosts - span_s for span_s, work_s in self.windows))

    def max_speedup(self, ttft_s: float) -> float:
        """No system keeps the quantile within `ttft_s` if the same requests come faster than this many times."""
        if self.alone_s > ttft_s:
            return 0.0
        spare = ((span_s, work_s / self.num_hosts - ttft_s) for span_s, work_s in self.windows)
        return min((span_s / late_s for span_s, late_s in spare if late_s > 0), default=float("inf"))


def bound(workload: Workload, hardware: Hardware, num_hosts: int, quantile: float = 0.95) -> Bound:
    """The bound for a workload of at least one request; seconds for 100,000.

    Below 1, `quantile` lets the dearest requests starve, as no real system would; 1 bounds those that serve everyone.
    """
    arrivals = workload.arrivals
    at_s = np.array([one.at_s for one in arrivals])
    ranks = [workload.ranks[one.adapter] if one.adapter else 0 for one in arrivals]
    prompt = np.array([one.prompt_tokens for one in arrivals], float)
    output = np.array([one.output_tokens for one in arrivals], float)
    alone = [_alone_s(hardware, one.prompt_tokens, rank) for one, rank in zip(arrivals, ranks, strict=True)]
    read, decode = _work_s(hardware, prompt, output, np.array(ranks, float))
    num_missing = len(arrivals) - math.ceil(quantile * len(arrivals))
    num_places = num_hosts * hardware.limits.config.max_sequences
    edges = np.unique(np.linspace(0, len(arrivals), _NUM_EDGES).astype(int))
    windows = tuple(
        (float(at_s[last - 1] - at_s[first]), _least_s(read[first:last], decode[first:last], num_missing, num_places))
        for number, first in enumerate(edges[:-1])
        for last in edges[number + 1 :]
    )
    return Bound(
        num_hosts=num_hosts, alone_s=float(np.quantile(alone, quantile, method="inverted_cdf")), windows=windows
    )


def _least_s(read: Numbers, decode: Numbers, num_missing: int, num_places: int) -> float:
    """Host-seconds that must be done once all but `num_missing` of these requests have their first token.

    Each keeps its place until it ends, so all but `num_places` have ended.
    """
    count = max(0, len(read) - num_missing)
    prompts = np.sort(read)[:count].sum()
    whole = np.sort(read + decode)[:count].sum() - np.sort(decode)[::-1][:num_places].sum()
    return float(max(prompts, whole))


def _alone_s(hardware: Hardware, prompt_tokens: int, rank: int) -> float:
    """To the first token, with a host to itself and the adapter in place."""
    most, seconds = hardware.limits.config.max_batch_tokens, 0.0
    for start in range(0, prompt_tokens, most):
        tokens = min(most, prompt_tokens - start)
        seconds += hardware.step.step_s(
            StepWork(
                prefill_tokens=tokens,
                decode_sequences=0,
                context_tokens=start + tokens,
                prefill_by_rank={rank: tokens},
                adapter_ranks=(rank,) if rank else (),
                host_rank=rank,
            )
        )
    return seconds


def _work_s(hardware: Hardware, prompt: Numbers, output: Numbers, rank: Numbers) -> tuple[Numbers, Numbers]:
    """Host-seconds of each prompt, and of all tokens after the first, at least.

    A step with p prompt tokens and d sequences takes at least a p + b d, for several pairs (a, b): the pair counts that
    makes most of these requests.
    """
    step = hardware.step
    later = output - 1
    token = (rank > 0) * step.adapter_token_s
    read = prompt * (token + step.prefill_row_s * rank + step.context_s)
    decode = later * (token + step.decode_row_s * rank + step.context_s * (prompt + output / 2))
    prompt_s, token_s = max(_rates(hardware.limits, step), key=lambda one: one[0] * prompt.sum() + one[1] * later.sum())
    return read + prompt_s * prompt, decode + token_s * later


def _rates(limits: EngineLimits, step: StepModel) -> Iterator[tuple[float, float]]:
    """Pairs of seconds for a prompt token and for a sequence that no step can undercut."""
    most, sequences = limits.config.max_batch_tokens, limits.config.max_sequences
    decode = np.repeat(np.arange(sequences + 1), most + 1)
    prefill = np.tile(np.arange(most + 1), sequences + 1)
    is_step = (prefill + decode > 0) & (prefill + decode <= most)
    decode, prefill = decode[is_step], prefill[is_step]
    base_s = np.array([step.base.base_s(*sizes) for sizes in zip(prefill.tolist(), decode.tolist(), strict=True)])
    alone = decode == 0
    top_s = float((base_s[alone] / prefill[alone]).min())
    for part in np.linspace(0, 1, _NUM_RATES).tolist():
        yield part * top_s, float(((base_s - part * top_s * prefill)[~alone] / decode[~alone]).min())
