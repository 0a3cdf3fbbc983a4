"""How long steps of the product's scheduler take. Owns: from plans to work. Models no device (device.py does)."""

from collections import Counter
from collections.abc import Callable, Mapping

from benchmarks.simulator.device import StepWork
from benchmarks.simulator.hardware import Hardware
from lorajax.plan import StepPlan
from lorajax.spec import Version

type Set = tuple[tuple[Version, float], ...]
"""The adapters of one request."""
type RankOf = Callable[[Version], int]


class Timing:
    """Seconds of steps on one host. Those that a plan stands for come to exactly the same one by one."""

    def __init__(self, hardware: Hardware, rank_of: RankOf) -> None:
        """Ranks are asked for when they are needed."""
        self._hardware, self._rank_of = hardware, rank_of
        self.host_rank = 0
        """The largest rank that the host serves."""

    def ends_s(self, plan: StepPlan, decoding: Counter[Set], now_s: float) -> list[float]:
        """When each step of a plan ends; `decoding` counts what it does not spell out by adapters."""
        hardware = self._hardware
        writes_s = len(plan.writes) * hardware.page_bytes / hardware.load_bytes_per_s
        if not (plan.chunks or plan.decoding):
            return [now_s + writes_s]
        prompts, decoding = Counter[Set](), decoding.copy()
        context = plan.decoding.context_tokens if plan.decoding else 0
        for chunk in plan.chunks:
            num_tokens = len(chunk.tokens)
            context += chunk.start + num_tokens
            (prompts if num_tokens > 1 else decoding)[chunk.request.adapters] += num_tokens
        num, context_s, ends = decoding.total(), hardware.step.context_s, []
        step_s = writes_s + self._computing_s(prompts, decoding)
        for _ in range(plan.num_steps):
            now_s += step_s + context_s * context
            ends.append(now_s)
            context += num
        return ends

    def _computing_s(self, prompts: Mapping[Set, int], decoding: Mapping[Set, int]) -> float:
        """Without KV: that part grows from step to step."""
        versions = {version for sets in (prompts, decoding) for adapters in sets for version, _ in adapters}
        work = StepWork(
            prefill_tokens=sum(prompts.values()),
            decode_sequences=sum(decoding.values()),
            context_tokens=0,
            prefill_by_rank=self._by_rank(prompts),
            decode_by_rank=self._by_rank(decoding),
            adapter_ranks=tuple(sorted(map(self._rank_of, versions))),
            host_rank=self.host_rank,
        )
        return self._hardware.step.step_s(work)

    def _by_rank(self, sets: Mapping[Set, int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for adapters, count in sets.items():
            rank = sum([self._rank_of(version) for version, _ in adapters])
            found[rank] = found.get(rank, 0) + count
        return dict(sorted(found.items()))  # sums of floats depend on the order
