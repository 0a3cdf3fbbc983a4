"""What one host, or the front door of many, counts and shows to Prometheus. Owns: names, labels, buckets.

Does not: serve them, or ask the clock. Labels are bounded: our own method names, gRPC's codes, hosts, and for adapters
one series whatever their number.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.core import GaugeMetricFamily, Metric

from cluster.view import HostLoad, HostName, HostState
from lorajax.config import EngineStats

MAX_NAMES_SHOWN = 32
RATE_WINDOW_S = 10
_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TBT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counts of one host, registered where it is told.

    Invariant: counts never fall. Owner: the event loop; a scrape may come from any thread.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything at zero."""
        self._registry = registry
        self._requests = PrometheusCounter(
            "lorajax:requests", "Calls answered, by gRPC code.", ("method", "code"), registry=registry
        )
        self._tokens = PrometheusCounter("lorajax:tokens", "Tokens, by kind.", ("kind",), registry=registry)
        self._ttft = Histogram(
            "lorajax:time_to_first_token_seconds", "From arrival.", registry=registry, buckets=_TTFT_BUCKETS
        )
        self._tbt = Histogram(
            "lorajax:time_between_tokens_seconds", "Within one answer.", registry=registry, buckets=_TBT_BUCKETS
        )
        self._rate = Rate()

    def answered(self, method: str, code: str) -> None:
        """Count a call that ended."""
        self._requests.labels(method, code).inc()

    def accepted(self, num_prompt_tokens: int) -> None:
        """Count the prompt of a request that the engine took."""
        self._tokens.labels("prompt").inc(num_prompt_tokens)

    def generated(self, num_tokens: int, wait_s: float, now_s: float, *, is_first: bool) -> None:
        """Count tokens that came together, `wait_s` after the ones before them or after the request's arrival."""
        self._tokens.labels("completion").inc(num_tokens)
        self._rate.add(num_tokens, now_s)
        if is_first:
            self._ttft.observe(wait_s)
        else:
            for _ in range(num_tokens):
                self._tbt.observe(wait_s / num_tokens)

    def tokens_per_s(self, now_s: float) -> float:
        """Generated tokens per second over the last `RATE_WINDOW_S`."""
        return self._rate.per_s(now_s)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return bytes(generate_latest(self._registry))

    def watch(self, snapshot: "Callable[[], Snapshot]") -> None:
        """Show a host's present state at each scrape."""
        self._registry.register(_Gauges(lambda: _of_host(snapshot())))

    def watch_cluster(self, snapshot: "Callable[[], ClusterSnapshot]") -> None:
        """Show the present state of all hosts at each scrape."""
        self._registry.register(_Gauges(lambda: _of_cluster(snapshot())))


class Rate:
    """Events per second over the last RATE_WINDOW_S seconds.

    Invariant: one count per second that had events, oldest first. Owner: the event loop.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._counts: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_S + 1)

    def add(self, count: int, now_s: float) -> None:
        """Count events that came now; time never goes back."""
        second = int(now_s)
        if self._counts and self._counts[-1][0] == second:
            count += self._counts.pop()[1]
        self._counts.append((second, count))

    def per_s(self, now_s: float) -> float:
        """The mean over the window that ends now."""
        return sum(count for second, count in self._counts if second > now_s - RATE_WINDOW_S) / RATE_WINDOW_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A host's state at one scrape."""

    stats: EngineStats
    running: Counter[str]
    """Requests that have had a token, by adapter name."""
    waiting: Counter[str]
    now_s: float
    """Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSnapshot:
    """The state of many hosts at one scrape, as their front door knows it."""

    num_inside: int
    """Requests that have come and not ended, those that wait here included."""
    num_waiting: int
    """Requests that wait here."""
    hosts: Mapping[HostName, tuple[HostState, HostLoad]]
    """(state, what its last beat said) of each."""


class _Gauges:
    """A Prometheus collector: `describe` once, `collect` at each scrape."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> list[Metric]:
        """Nothing before the first scrape: what is shown may not be up when it is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask, once per scrape."""
        return self._collect()


def _of_host(now: Snapshot) -> Iterator[Metric]:
    stats = now.stats
    yield GaugeMetricFamily("lorajax:num_requests_running", "Requests in the batch.", value=stats.num_running)
    yield GaugeMetricFamily("lorajax:num_requests_waiting", "Requests in the queue.", value=stats.num_waiting)
    yield _pages("kv", stats.kv_pages_free, stats.kv_pages_total)
    yield _pages("adapter", stats.adapter_pages_free, stats.adapter_pages_total)
    labels = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
    info = GaugeMetricFamily("lorajax:lora_requests_info", "Adapters in use; the value is Unix time.", labels=labels)
    info.add_metric((str(stats.adapter_pages_total), _names(now.running), _names(now.waiting)), now.now_s)
    yield info


def _of_cluster(now: ClusterSnapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("lorajax:num_requests_in_flight", "Requests that have not ended.", value=now.num_inside)
    yield GaugeMetricFamily("lorajax:num_requests_waiting", "Requests that no host has yet.", value=now.num_waiting)
    up = GaugeMetricFamily("lorajax:host_serving", "Whether the host takes requests.", labels=("host",))
    running = GaugeMetricFamily("lorajax:host_requests_running", "Requests in its batch.", labels=("host",))
    waiting = GaugeMetricFamily("lorajax:host_requests_waiting", "Requests in its queue.", labels=("host",))
    rate = GaugeMetricFamily("lorajax:host_tokens_per_second", "Generated, in the last seconds.", labels=("host",))
    for name, (state, load) in sorted(now.hosts.items()):
        up.add_metric((name,), state is HostState.SERVING)
        if state is HostState.LOST:  # what it said last is over
            continue
        running.add_metric((name,), load.num_running)
        waiting.add_metric((name,), load.num_waiting)
        rate.add_metric((name,), load.tokens_per_s)
    yield from (up, running, waiting, rate)


def _pages(kind: str, free: int, total: int) -> Metric:
    family = GaugeMetricFamily(f"lorajax:{kind}_pages", f"Device pages of the {kind} pool.", labels=("state",))
    family.add_metric(("free",), free)
    family.add_metric(("used",), total - free)
    return family


def _names(counts: Counter[str]) -> str:
    """The busiest names; a label must not grow with the number of adapters."""
    return ",".join(sorted(name for name, _ in counts.most_common(MAX_NAMES_SHOWN)))
