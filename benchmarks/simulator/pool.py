"""Adapters of one host. Owns: what is in its memory, and how each version comes there, once at a time.

Does not: decide what should be there. The rules are those of `cluster.adapter_pool`, the lines those of links.py.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.simulator.clock import Action
from benchmarks.simulator.site import Keep, Site
from cluster.adapter_pool import MAX_FETCHES, MAX_ORDERED
from cluster.view import Adapter, HostName
from lorajax.spec import Version


@dataclass(frozen=True, slots=True)
class _Fetch:
    adapter: Adapter
    peers: Sequence[HostName]
    waiting: list[Action] = field(default_factory=list)


class Pool:
    """Invariant: a version is fetched once at a time; at most MAX_FETCHES are on their way, of which MAX_ORDERED are
    wanted by the coordinator alone."""

    def __init__(self, name: HostName, site: Site, keep: Keep) -> None:
        """Hold nothing."""
        self.held: dict[Version, Adapter] = {}
        """What is in memory; also what is on its way out, while requests use it."""
        self.known: dict[Version, Adapter] = {}
        """What requests can name."""
        self._name, self._site, self._clock, self._keep = name, site, site.clock, keep
        self._fetches: dict[Version, _Fetch] = {}
        self._queue: deque[_Fetch] = deque()
        self._num_coming = 0
        self._ordered: deque[_Fetch] = deque()
        self._num_ordered = 0
        self._held_bytes = self.max_bytes = self.max_adapters = 0
        self._byte_seconds = 0.0
        self._seen_s = site.clock.now_s
        self._is_stopped = False

    def stop(self) -> None:
        """Be gone: what is on its way is lost."""
        self._is_stopped = True
        for version in tuple(self.held):
            self.release(version)

    def hold(self, adapter: Adapter) -> None:
        """Have an adapter in memory."""
        if adapter.version not in self.held:
            self._see(adapter.num_bytes)
            self.held[adapter.version] = adapter
            self.max_adapters = max(self.max_adapters, len(self.held))

    def release(self, version: Version) -> None:
        """Have it no more."""
        if (adapter := self.held.pop(version, None)) is not None:
            self._see(-adapter.num_bytes)

    def byte_seconds(self) -> float:
        """Bytes in memory, summed over time up to now."""
        self._see(0)
        return self._byte_seconds

    def restart(self) -> None:
        """Count bytes, seconds and maxima from now on."""
        self._see(0)
        self._byte_seconds, self.max_bytes, self.max_adapters = 0.0, self._held_bytes, len(self.held)

    def ensure(self, adapter: Adapter, peers: Sequence[HostName], then: Action) -> None:
        """Bring an adapter here, and then go on; who asks later waits for the same copy."""
        if (fetch := self._fetches.get(adapter.version)) is not None:
            fetch.waiting.append(then)
        else:
            fetch = self._fetches[adapter.version] = _Fetch(adapter, peers, [then])
            self._queue.append(fetch)
            self._start()

    def order(self, adapter: Adapter, peers: Sequence[HostName], then: Action) -> None:
        """The same for nobody who waits: after what requests need."""
        self._ordered.append(_Fetch(adapter, peers, [then]))
        self._start_ordered()

    def fetch_stored(self, adapter: Adapter, then: Action) -> None:
        """Read an adapter again that has left memory, and then go on."""
        self._bring(adapter, None, then)

    def _start_ordered(self) -> None:
        while self._ordered and self._num_ordered < MAX_ORDERED:
            self._num_ordered += 1
            order = self._ordered.popleft()

            def done(order: _Fetch = order) -> None:
                self._num_ordered -= 1
                for then in order.waiting:
                    then()
                self._start_ordered()

            if order.adapter.version in self.known and order.adapter.version in self.held:
                done()
            else:
                self.ensure(order.adapter, order.peers, done)

    def _start(self) -> None:
        while self._queue and self._num_coming < MAX_FETCHES:
            self._num_coming += 1
            fetch = self._queue.popleft()
            version = fetch.adapter.version

            def come(fetch: _Fetch = fetch) -> None:
                self._keep(fetch.adapter, lambda: self._end(fetch))

            if version in self.held:  # requests that finish on a dropped one still hold it
                come()
            else:
                holders = self._site.holders if self._site.has_pool else {}
                able = (peer for peer in fetch.peers if peer in holders and version in holders[peer].held)
                self._bring(fetch.adapter, next(able, None), come)

    def _bring(self, adapter: Adapter, source: HostName | None, then: Action) -> None:
        def arrive() -> None:
            if self._is_stopped:
                return
            self._site.moved.num_bytes += adapter.num_bytes
            self._site.moved.num_copies += 1
            then()

        self._clock.at(self._site.links.arrival_s(source, self._name, adapter.num_bytes, self._clock.now_s), arrive)

    def _end(self, fetch: _Fetch) -> None:
        self._num_coming -= 1
        del self._fetches[fetch.adapter.version]
        for then in fetch.waiting:
            then()
        self._start()

    def _see(self, num_bytes: int) -> None:
        now_s = self._clock.now_s
        self._byte_seconds += self._held_bytes * (now_s - self._seen_s)
        self._seen_s = now_s
        self._held_bytes += num_bytes
        self.max_bytes = max(self.max_bytes, self._held_bytes)
