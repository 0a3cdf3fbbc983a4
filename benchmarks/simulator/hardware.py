"""One kind of host. Owns: its sizes, rates and step model, what it sustains by rank. Names none (presets.py)."""

import math
from dataclasses import dataclass, replace

from benchmarks.outcomes.statistics import Slo
from benchmarks.simulator.device import Kernels, StepModel, StepWork
from cluster.operating_points import OperatingPoints
from lorajax.limits import EngineLimits
from lorajax.spec import num_rank_pages

RANKS = (0, 8, 16, 32, 64, 128)
_UNBURDENED_PAGES, _UNBURDENED_BYTES_PER_S = 2**14, 1e18
"""As a thousand adapters of rank 128 take, in no time that counts."""
_TAIL = math.log(20)
"""A wait that falls off exponentially has its 95th percentile at so many means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Everything that the simulator must know of a host; all hosts of a run are alike."""

    name: str
    about: str
    """Device, model and engine, and where the figures come from."""
    step: StepModel
    limits: EngineLimits
    host_bytes: int
    """Host memory for adapters."""
    page_bytes: int
    """Of one adapter page (8 rank rows)."""
    link_bytes_per_s: float
    """Between two hosts."""
    store_bytes_per_s: float
    load_bytes_per_s: float
    """From host memory to the device."""
    link_latency_s: float = 0.001
    """Of a fetch, besides its bytes."""
    relay_s: float = 0.001
    """Front door, both ways: what a request takes besides steps."""
    jitter: tuple[tuple[float, ...], ...] = ((1.0,),)
    """What a step takes, as a part of what the model says: of one after the other, from the start again. Hosts take
    turns at the rows, of which each is what one host was seen to do; 1 in the mean of all."""

    def adapter_bytes(self, rank: int) -> int:
        """What an adapter takes, wherever it is."""
        return num_rank_pages(rank) * self.page_bytes

    def with_kernels(self, kernels: Kernels) -> "Hardware":
        """The same host with other kernels."""
        return replace(self, step=replace(self.step, kernels=kernels))

    def unburdened(self) -> "Hardware":
        """The same host with room for all adapters, which come at once from anywhere: no real one."""
        pages = max(_UNBURDENED_PAGES, self.limits.num_adapter_pages)
        return replace(
            self,
            limits=replace(self.limits, num_adapter_pages=pages),
            host_bytes=pages * self.page_bytes,
            link_bytes_per_s=_UNBURDENED_BYTES_PER_S,
            store_bytes_per_s=_UNBURDENED_BYTES_PER_S,
            load_bytes_per_s=_UNBURDENED_BYTES_PER_S,
            link_latency_s=0.0,
        )

    def points(
        self, kernels: Kernels, slo: Slo, *, prompt_tokens: int = 1155, new_tokens: int = 211
    ) -> OperatingPoints:
        """What a profiler would have found: tokens/s within the target, for each rank alone.

        The mean request is that of Azure's conversation trace (2023).
        """
        step = replace(self.step, kernels=kernels)
        return OperatingPoints(
            tokens_per_s={rank: _sustained(self.limits, step, rank, slo, prompt_tokens, new_tokens) for rank in RANKS},
            mixing=kernels.mixing,
            fetch_bytes_per_s=self.link_bytes_per_s,
        )


def _sustained(
    limits: EngineLimits, step: StepModel, rank: int, slo: Slo, prompt_tokens: int, new_tokens: int
) -> float:
    """The most tokens/s, over all numbers of sequences that decode together.

    A host with that many places is a queue with as many servers: near saturation its waits are exponential, with mean
    (service time / places) / (1 - utilisation). The utilisation is what keeps their 95th percentile within the target.
    Source: Kingman 1962. Where no wait at all would keep it, one request at a time.
    """
    found = [_one_at_a_time(step, rank, prompt_tokens, new_tokens)]
    for sequences in range(1, limits.config.max_sequences + 1):
        context = sequences * (prompt_tokens + new_tokens // 2)
        if limits.num_kv_pages_of(context) >= limits.num_kv_pages:
            break
        prefill = sequences * prompt_tokens // new_tokens
        step_s = step.step_s(_work(rank, prefill, sequences, context, prefill * prompt_tokens // 2))
        chunk = max(1, min(limits.config.interleaved_tokens, limits.config.max_batch_tokens - sequences))
        if prefill > chunk:
            break
        read_s = math.ceil(prompt_tokens / chunk) * step_s
        slack_s = slo.ttft_s - read_s
        if slack_s <= 0 or step_s > slo.tpot_s:
            continue
        utilisation = max(0.0, 1 - _TAIL * new_tokens * step_s / sequences / slack_s)
        found.append(utilisation * sequences * (1 + prompt_tokens / new_tokens) / step_s)
    return max(found)


def _one_at_a_time(step: StepModel, rank: int, prompt_tokens: int, new_tokens: int) -> float:
    read_s = step.step_s(_work(rank, prompt_tokens, 0, prompt_tokens, prompt_tokens**2 // 2))
    decode_s = step.step_s(_work(rank, 0, 1, prompt_tokens + new_tokens // 2, 0))
    return (prompt_tokens + new_tokens) / (read_s + new_tokens * decode_s)


def _work(rank: int, prefill: int, sequences: int, context: int, attended_pairs: int) -> StepWork:
    """A step in which every sequence has an adapter of its own up to eight: traffic is skewed."""
    return StepWork(
        prefill_tokens=prefill,
        decode_sequences=sequences,
        context_tokens=context,
        attended_pairs=attended_pairs,
        prefill_by_rank={rank: prefill},
        decode_by_rank={rank: sequences},
        adapter_ranks=(rank,) * min(8, max(1, sequences)) if rank else (),
        host_rank=rank,
    )
