"""How long steps of the product's scheduler take. Owns: from plans to work. Models no device (device.py does)."""

from collections.abc import Mapping
from itertools import accumulate

from benchmarks.simulator.device import StepWork, attended_pairs
from benchmarks.simulator.hardware import Hardware
from lorajax.plan import StepPlan
from lorajax.spec import Request, Version

BASE = Version("")
"""What a request without an adapter counts as."""
_STRIDE = 7919
"""From the jitter of one host to that of the next with the same row."""


class Timing:
    """Seconds of steps on one host. Those that a plan stands for come to exactly the same one by one."""

    def __init__(self, hardware: Hardware, turn: int) -> None:
        """Know no adapters; hosts with other turns, from 1, have other jitter."""
        self._hardware = hardware
        round_, row = divmod(turn - 1, len(hardware.jitter))
        self._jitter, self._place = hardware.jitter[row], round_ * _STRIDE
        self.rank_of: dict[Version, int] = {BASE: 0}
        """Of all adapters that requests use."""
        self.host_rank = 0
        """The largest rank that the host serves."""

    def ends_s(self, plan: StepPlan, decoding: Mapping[Version, int], now_s: float) -> list[float]:
        """When each step of a plan ends; `decoding` counts what it does not spell out by adapter."""
        hardware = self._hardware
        writes_s = len(plan.writes) * hardware.page_bytes / hardware.load_bytes_per_s
        if not (plan.chunks or plan.decoding):
            return [now_s + writes_s]
        prompts: dict[Version, int] = {}
        decoding = dict(decoding)
        context, attended = plan.decoding.context_tokens if plan.decoding else 0, 0
        for chunk in plan.chunks:
            num_tokens, version = len(chunk.tokens), version_of(chunk.request)
            context += chunk.start + num_tokens
            counts = decoding
            if num_tokens > 1:
                counts = prompts
                attended += attended_pairs(chunk.start, num_tokens)
            counts[version] = counts.get(version, 0) + num_tokens
        num, context_s = sum(decoding.values()), hardware.step.context_s
        step_s = writes_s + self._computing_s(prompts, decoding, attended)
        jitter, place = self._jitter, self._place
        steps_s = [
            (step_s + context_s * (context + number * num)) * jitter[(place + number) % len(jitter)]
            for number in range(plan.num_steps)
        ]
        steps_s[0] += now_s
        return list(accumulate(steps_s))

    def took(self, num_steps: int) -> None:
        """Know that so many steps of the last plan were taken."""
        self._place += num_steps

    def _computing_s(self, prompts: Mapping[Version, int], decoding: Mapping[Version, int], attended: int) -> float:
        """Without KV: that part grows from step to step."""
        ranks = [self.rank_of[version] for version in (*prompts, *decoding.keys() - prompts.keys()) if version]
        work = StepWork(
            prefill_tokens=sum(prompts.values()),
            decode_sequences=sum(decoding.values()),
            context_tokens=0,
            attended_pairs=attended,
            prefill_by_rank=self._by_rank(prompts),
            decode_by_rank=self._by_rank(decoding),
            adapter_ranks=tuple(sorted(ranks)),
            host_rank=self.host_rank,
        )
        return self._hardware.step.step_s(work)

    def _by_rank(self, counts: Mapping[Version, int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for version, count in counts.items():
            rank = self.rank_of[version]
            found[rank] = found.get(rank, 0) + count
        return dict(sorted(found.items()))  # sums of floats depend on the order


def version_of(request: Request) -> Version:
    """Its adapter, of which simulated requests have one at most."""
    return request.adapters[0][0] if request.adapters else BASE
