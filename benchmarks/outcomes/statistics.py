"""Numbers out of a run. Owns: what each of them means. Does not: print or keep them.

Names and definitions are those of `vllm bench serve`: distributions and token counts are of requests that succeeded,
TPOT is (E2EL - TTFT) / (tokens - 1) of those with more than one token, ITL are the gaps between messages of all of them
together, percentiles are linear between neighbours (numpy's "linear"). Three things differ, and can only make numbers
worse: a latency counts from when the request was due, not from when the driver came to send it; E2EL ends with the
answer's last message, not with its last token; and for the SLO a request that failed is infinitely late.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.outcomes.records import HostUse, Outcome, Run

LATE_S = 0.01
"""A request that was sent so much after it was due was sent late."""
CDF_SHARES = tuple(number / 100 for number in range(101))
"""Where the distribution of TTFT is kept: shares of the requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request is to reach; infinite where nothing is asked."""

    ttft_s: float = math.inf
    tpot_s: float = math.inf
    e2el_s: float = math.inf
    quantile: float = 0.95
    """Share of all requests that must reach `ttft_s` for a run to be within."""

    def most_late(self, num_requests: int) -> int:
        """How many of so many may miss `ttft_s` before it is certain that the run is not within."""
        return num_requests - 1 - math.floor((num_requests - 1) * self.quantile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Some measured seconds."""

    num: int
    mean: float
    std: float
    """Of the population, as numpy's default."""
    median: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Distribution | None":
        """What is told of finite values; None where there are none."""
        if not len(values):
            return None
        median, p95, p99 = map(float, np.percentile(values, (50, 95, 99)))
        mean, std = float(np.mean(values)), float(np.std(values))
        return cls(num=len(values), mean=mean, std=std, median=median, p95=p95, p99=p99, max=float(np.max(values)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Requests of one adapter, or of one rank."""

    rank: int
    """The largest of them."""
    num_requests: int
    num_failed: int
    input_tokens: int
    output_tokens: int
    ttft: Distribution | None
    tpot: Distribution | None
    tail_ttft_s: float
    """TTFT at the SLO's quantile over all of them, failed ones infinitely late."""
    attainment: float
    """Share that met the SLO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What became of the adapters."""

    device_hits: int
    host_hits: int
    misses: int
    stall_s: float
    """Waited for adapters, summed over requests."""
    held_bytes: float
    """In the memory of all hosts together, in the mean over time."""
    max_held_bytes: int
    """By the fullest host."""
    max_held_adapters: int
    moved_bytes: int
    num_moves: int

    @property
    def hit_shares(self) -> tuple[float, float, float] | None:
        """Shares of requests whose adapters were on the device, in host memory, in neither; None if none was seen."""
        counts = (self.device_hits, self.host_hits, self.misses)
        total = sum(counts)
        return (counts[0] / total, counts[1] / total, counts[2] / total) if total else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything that a report says about one run."""

    slo: Slo
    duration_s: float
    num_requests: int
    failed: Mapping[str, int]
    """By gRPC's names of how they ended; NO_TOKENS where it was well, but without any."""
    input_tokens: int
    output_tokens: int
    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    """None also where the driver did not keep when messages came."""
    e2el: Distribution | None
    lateness: Distribution | None
    """Of sends: how long after they were due."""
    num_late: int
    tail_ttft_s: float
    num_good: int
    """That succeeded and met every limit of the SLO."""
    imbalance: float
    """Seconds in steps of the busiest host over those of the mean one; NaN where hosts were not seen."""
    pool: Pool
    by_rank: Mapping[int, Group]
    by_adapter: Mapping[str, Group]
    cdf_by_rank: Mapping[int, tuple[float, ...]]
    """TTFT in seconds below which each of CDF_SHARES of a rank's requests lie, failed ones infinitely late."""

    @property
    def num_successful(self) -> int:
        """Requests that ended well."""
        return self.num_requests - sum(self.failed.values())

    @property
    def request_throughput(self) -> float:
        """Successful requests/s."""
        return self.num_successful / self.duration_s

    @property
    def goodput(self) -> float:
        """Requests/s that met the SLO."""
        return self.num_good / self.duration_s

    @property
    def output_throughput(self) -> float:
        """Generated tokens/s."""
        return self.output_tokens / self.duration_s

    @property
    def total_throughput(self) -> float:
        """Prompt and generated tokens/s."""
        return (self.input_tokens + self.output_tokens) / self.duration_s

    @property
    def attainment(self) -> float:
        """Share of all requests that met the SLO."""
        return self.num_good / self.num_requests

    @property
    def is_within(self) -> bool:
        """Whether the run as a whole kept its TTFT."""
        return self.tail_ttft_s <= self.slo.ttft_s


def percentiles(values: Sequence[float] | np.ndarray, shares: Sequence[float]) -> tuple[float, ...]:
    """Below which value each share of the values lies, linear between neighbours; infinite values are allowed."""
    ordered = np.sort(values)

    def at(place: float) -> float:
        low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
        return low if low == high else low + (high - low) * (place - math.floor(place))

    return tuple(at((len(ordered) - 1) * share) for share in shares)


def summary(run: Run, slo: Slo) -> Summary:
    """What there is to say about a run.

    Raises: ValueError where it has no requests.
    """
    if not run.outcomes:
        raise ValueError(f"the run of {run.system} has no requests; give the workload a higher rate or more time")
    seen = _Columns(run.outcomes, slo)
    late_s = np.array([one.sent_s - one.due_s for one in run.outcomes])
    gaps_s = [np.diff(one.token_s) for one in run.outcomes if one.code == "OK" and len(one.token_s) > 1]
    by_rank = _grouped(run.outcomes, lambda one: one.rank)
    by_adapter = _grouped(run.outcomes, lambda one: one.adapter)
    every = seen.group(np.arange(len(run.outcomes)))
    return Summary(
        slo=slo,
        duration_s=run.span_s,
        num_requests=every.num_requests,
        failed=dict(Counter(ending for ending in map(_ending, run.outcomes) if ending != "OK")),
        input_tokens=every.input_tokens,
        output_tokens=every.output_tokens,
        ttft=every.ttft,
        tpot=every.tpot,
        itl=Distribution.of(np.concatenate(gaps_s)) if gaps_s else None,
        e2el=Distribution.of(seen.e2el_s[seen.is_ok]),
        lateness=Distribution.of(late_s),
        num_late=int(np.count_nonzero(late_s > LATE_S)),
        tail_ttft_s=every.tail_ttft_s,
        num_good=int(np.count_nonzero(seen.is_good)),
        imbalance=_imbalance(tuple(run.hosts.values())),
        pool=_pool(run),
        by_rank={rank: seen.group(places) for rank, places in by_rank.items()},
        by_adapter={name: seen.group(places) for name, places in by_adapter.items()},
        cdf_by_rank={rank: percentiles(seen.ttft_s[places], CDF_SHARES) for rank, places in by_rank.items()},
    )


class _Columns:
    """The outcomes of a run as arrays; made once, never changed."""

    def __init__(self, outcomes: Sequence[Outcome], slo: Slo) -> None:
        self._slo = slo
        self.is_ok = np.array([_ending(one) == "OK" for one in outcomes])
        due_s = np.array([one.due_s for one in outcomes])
        self.ttft_s = np.where(self.is_ok, np.array([one.first_s for one in outcomes]) - due_s, math.inf)
        self.e2el_s = np.where(self.is_ok, np.array([one.end_s for one in outcomes]) - due_s, math.inf)
        self._ranks = np.array([one.rank for one in outcomes])
        self._input_tokens = np.array([one.prompt_tokens for one in outcomes])
        self._output_tokens = np.array([one.output_tokens for one in outcomes])
        self._has_tpot = self.is_ok & (self._output_tokens > 1)
        self._tpot_s = np.zeros(len(outcomes))
        after_first_s = self.e2el_s[self._has_tpot] - self.ttft_s[self._has_tpot]
        self._tpot_s[self._has_tpot] = after_first_s / (self._output_tokens[self._has_tpot] - 1)
        self.is_good = (
            self.is_ok & (self.ttft_s <= slo.ttft_s) & (self._tpot_s <= slo.tpot_s) & (self.e2el_s <= slo.e2el_s)
        )

    def group(self, places: np.ndarray) -> Group:
        """The requests with these numbers."""
        ok = places[self.is_ok[places]]
        return Group(
            rank=int(self._ranks[places].max()),
            num_requests=len(places),
            num_failed=len(places) - len(ok),
            input_tokens=int(self._input_tokens[ok].sum()),
            output_tokens=int(self._output_tokens[ok].sum()),
            ttft=Distribution.of(self.ttft_s[ok]),
            tpot=Distribution.of(self._tpot_s[places[self._has_tpot[places]]]),
            tail_ttft_s=percentiles(self.ttft_s[places], (self._slo.quantile,))[0],
            attainment=float(np.mean(self.is_good[places])),
        )


def _ending(one: Outcome) -> str:
    """Its code; a request that ended well without a token failed all the same."""
    return "NO_TOKENS" if one.code == "OK" and math.isinf(max(one.first_s, one.end_s)) else one.code


def _grouped[K: (str, int)](outcomes: Iterable[Outcome], key_of: Callable[[Outcome], K]) -> dict[K, np.ndarray]:
    """Key -> numbers of its requests, in order of keys."""
    places: dict[K, list[int]] = {}
    for number, one in enumerate(outcomes):
        places.setdefault(key_of(one), []).append(number)
    return {key: np.array(numbers) for key, numbers in sorted(places.items())}


def _imbalance(hosts: Sequence[HostUse]) -> float:
    busy_s = [host.busy_s for host in hosts]
    return max(busy_s) / float(np.mean(busy_s)) if sum(busy_s) else math.nan


def _pool(run: Run) -> Pool:
    hosts = tuple(run.hosts.values())
    return Pool(
        device_hits=sum(host.device_hits for host in hosts),
        host_hits=sum(host.host_hits for host in hosts),
        misses=sum(host.misses for host in hosts),
        stall_s=sum(host.stall_s for host in hosts),
        held_bytes=sum(host.mean_held_bytes for host in hosts),
        max_held_bytes=max((host.max_held_bytes for host in hosts), default=0),
        max_held_adapters=max((host.max_held_adapters for host in hosts), default=0),
        moved_bytes=run.moved_bytes,
        num_moves=run.num_moves,
    )
