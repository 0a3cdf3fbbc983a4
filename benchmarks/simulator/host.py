"""One simulated host. Owns: a request's way through it, its beats, the orders it carries out, what it counts.

Does not: schedule (engine.py), move bytes (pool.py), or decide what it holds (the coordinator does).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from benchmarks.outcomes.records import HostUse
from benchmarks.simulator.clock import Action, Timer
from benchmarks.simulator.engine import Engine
from benchmarks.simulator.flight import Flight
from benchmarks.simulator.pool import Pool
from benchmarks.simulator.site import Site
from benchmarks.simulator.timing import BASE
from cluster.events import Done, DropAdapter, FetchAdapter, HostBeat, HostCommand, HostJoined
from cluster.membership import GATHER_S
from cluster.view import Adapter, HostLoad, HostName, HostSpec, HostState
from lorajax.errors import LorajaxError
from lorajax.plan import StepPlan
from lorajax.spec import TARGETS, AdapterSpec, Failed, Finished, Level, Version


class Doors(Protocol):
    """Who hears what becomes of requests."""

    def first_token(self, flight: Flight) -> None:
        """One token came."""

    def finished(self, flight: Flight) -> None:
        """All came."""

    def refused(self, flight: Flight, error: Exception) -> None:
        """The host cannot serve it, or not now."""


type Hear = Callable[[HostBeat, Sequence[Done]], None]
"""The host is alive, and has done what it was told."""


@dataclass(slots=True, kw_only=True)
class _Counts:
    """Of a host, since `restart`."""

    tokens: int = 0
    device_hits: int = 0
    host_hits: int = 0
    misses: int = 0
    stall_s: float = 0.0


class Host:
    """One life of a host, from `join` to `lose`."""

    def __init__(self, site: Site, doors: Doors, hear: Hear, number: int, incarnation: int) -> None:
        """Be there, and hold nothing."""
        hardware = site.config.hardware
        self.spec = HostSpec(
            name=host_name(number),
            address=host_name(number),
            incarnation=incarnation,
            host_bytes=hardware.host_bytes,
            num_adapter_pages=hardware.limits.num_adapter_pages - 1,
            max_sequences=hardware.limits.config.max_sequences,
        )
        self.is_lost = self.is_silent = False
        self.pool = Pool(self.spec.name, site, self._keep)
        self._engine = Engine(site, self, turn=number + 1)
        self._site, self._doors, self._hear, self._clock = site, doors, hear, site.clock
        self._adapters: dict[Version, Adapter] = {}
        """All that were ever here."""
        self._counts = _Counts()
        self._waiting_tokens = 0
        self._is_news = False
        self._outcomes: list[Done] = []
        self._beating: Timer | None = None
        self._beat_s = 0.0
        """When the next beat is."""

    # Its life.

    def join(self, adapters: Iterable[Adapter], first_beat_s: float) -> HostJoined:
        """Hold these from the start, and beat from then on; returns what it says of itself."""
        for adapter in adapters:
            self._register(adapter)
        self._site.holders[self.spec.name] = self.pool
        self._beat_at(first_beat_s)
        return HostJoined(spec=self.spec, state=HostState.SERVING, copies=self._copies(), now_s=self._clock.now_s)

    def lose(self, *, is_silent: bool) -> None:
        """End without a word; a silent one does not even refuse connections."""
        self.is_lost, self.is_silent = True, is_silent
        self._engine.stop()
        self.pool.stop()
        del self._site.holders[self.spec.name]
        if self._beating is not None:
            self._beating.cancel()

    def restart(self) -> None:
        """Count from now on what `use` tells."""
        self._counts = _Counts()
        self._engine.restart()
        self.pool.restart()

    def use(self, span_s: float) -> HostUse:
        """What it did in the seconds since `restart`."""
        counts = self._counts
        return HostUse(
            busy_s=self._engine.busy_s,
            tokens=counts.tokens,
            mean_held_bytes=self.pool.byte_seconds() / span_s if span_s else 0.0,
            max_held_bytes=self.pool.max_bytes,
            max_held_adapters=self.pool.max_adapters,
            device_hits=counts.device_hits,
            host_hits=counts.host_hits,
            misses=counts.misses,
            stall_s=counts.stall_s,
        )

    # Requests.

    def submit(self, flight: Flight, peers: Sequence[HostName]) -> None:
        """Serve a request; an adapter that is not here comes from the first peer that has it, or from the store."""
        if flight.adapter is not None:
            version = flight.adapter.version
            if version in self.pool.known and self._engine.scheduler.residency.is_ready((version,)):
                self._counts.device_hits += 1
            elif version in self.pool.held:
                self._counts.host_hits += 1
            else:
                self._counts.misses += 1
        self._bring(flight, peers)

    def cancel(self, flight: Flight) -> None:
        """Forget a request; its tokens up to now are counted."""
        self._engine.catch_up()
        self._engine.post(partial(self._forget, flight))

    def _bring(self, flight: Flight, peers: Sequence[HostName]) -> None:
        adapter, asked_s = flight.adapter, self._clock.now_s

        def come() -> None:
            self._counts.stall_s += self._clock.now_s - asked_s
            self._engine.post(partial(self._accept, flight, peers))

        if adapter is None or adapter.version in self.pool.known:
            come()
        else:
            self.pool.ensure(adapter, peers, come)

    def _accept(self, flight: Flight, peers: Sequence[HostName]) -> None:
        if flight.host != self.spec.name:
            return  # it has left meanwhile
        if flight.adapter is not None and flight.adapter.version not in self.pool.known:
            self._bring(flight, peers)  # dropped in that very moment
            return
        try:
            self._engine.submit(flight, flight.request())
        except LorajaxError as error:
            self._doors.refused(flight, error)
        else:
            self._waiting_tokens += flight.arrival.prompt_tokens

    def _forget(self, flight: Flight) -> None:
        if self._engine.cancel(flight.id) and not flight.num_tokens:
            self._waiting_tokens -= flight.arrival.prompt_tokens

    # What the engine tells.

    def first_token(self, flight: Flight) -> None:
        """As `engine.Owner`."""
        self._counts.tokens += flight.arrival.prompt_tokens
        self._waiting_tokens -= flight.arrival.prompt_tokens
        if flight.host == self.spec.name:  # else it was given up in this very step
            self._doors.first_token(flight)

    def ended(self, flight: Flight, end: Finished | Failed) -> None:
        """As `engine.Owner`."""
        if isinstance(end, Finished):
            self._counts.stall_s += end.timing.adapter_wait_s
            self._counts.tokens += flight.num_tokens
        elif not flight.num_tokens:
            self._waiting_tokens -= flight.arrival.prompt_tokens
        if flight.host != self.spec.name:
            return
        if isinstance(end, Finished):
            self._doors.finished(flight)
        else:
            self._doors.refused(flight, end.error)

    def changed(self, plan: StepPlan) -> None:
        """As `engine.Owner`."""
        self._is_news = True
        for release in plan.releases:
            self.pool.release(release.version)
        for fetch in plan.fetches:
            self.pool.fetch_stored(self._adapters[fetch.version], partial(self._read, fetch.version))

    def _read(self, version: Version) -> None:
        self._engine.post(partial(self._was_read, version))

    def _was_read(self, version: Version) -> None:
        self.pool.hold(self._adapters[version])
        self._engine.scheduler.adapter_fetched(version)
        self._is_news = True

    # Adapters.

    def carry_out(self, command: HostCommand) -> None:
        """Do what the coordinator orders; the outcome goes with a beat."""
        done = partial(self._done, command.number)
        match command:
            case FetchAdapter(adapter=adapter, peers=peers):
                self.pool.order(adapter, peers, done)
            case DropAdapter(version=version):
                self._engine.post(partial(self._drop, version, done))
            case _:
                raise AssertionError(f"{command} is ordered only where somebody calls, or hosts share a world")

    def _done(self, number: int) -> None:
        self._outcomes.append(Done(number=number))
        self._change()

    def _keep(self, adapter: Adapter, then: Action) -> None:
        self._engine.post(partial(self._kept, adapter, then))

    def _kept(self, adapter: Adapter, then: Action) -> None:
        self._register(adapter)
        self._change()
        then()

    def _register(self, adapter: Adapter) -> None:
        spec = AdapterSpec(version=adapter.version, rank=adapter.rank, targets=TARGETS, num_bytes=adapter.num_bytes)
        self._adapters[adapter.version] = self.pool.known[adapter.version] = adapter
        self._engine.timing.rank_of[adapter.version] = adapter.rank
        self._engine.timing.host_rank = max(self._engine.timing.host_rank, adapter.rank)
        self._engine.scheduler.residency.register(spec, has_store=True)
        self._engine.scheduler.adapter_fetched(adapter.version)
        self.pool.hold(adapter)

    def _drop(self, version: Version, done: Action) -> None:
        if self.pool.known.pop(version, None) is not None:
            self._engine.scheduler.residency.remove(version)
            self._engine.timing.host_rank = max((one.rank for one in self.pool.known.values()), default=0)
        done()

    # Beats.

    def _change(self) -> None:
        """Beat soon."""
        self._is_news = True
        if self._clock.now_s + GATHER_S < self._beat_s:
            self._beat_at(self._clock.now_s + GATHER_S)

    def _beat_at(self, when_s: float) -> None:
        if self._beating is not None:
            self._beating.cancel()
        self._beat_s, self._beating = when_s, self._clock.at(when_s, self._beat)

    def _beat(self) -> None:
        self._engine.catch_up()
        tokens, self._engine.tokens = self._engine.tokens, defaultdict(int)
        tokens.pop(BASE, None)
        outcomes, self._outcomes = self._outcomes, []
        beat = HostBeat(
            host=self.spec.name,
            incarnation=self.spec.incarnation,
            state=HostState.SERVING,
            load=self._load(),
            tokens=tokens,
            copies=self._copies() if self._is_news else None,
            now_s=self._clock.now_s,
        )
        self._is_news = False
        self._beat_at(self._clock.now_s + self._site.config.beat_s)
        self._hear(beat, outcomes)

    def _copies(self) -> dict[Version, Level]:
        levels = self._engine.scheduler.residency.levels()
        return {version: levels[version] for version in self.pool.known}

    def _load(self) -> HostLoad:
        stats = self._engine.scheduler.stats()
        return HostLoad(
            num_running=stats.num_running,
            num_waiting=max(0, len(self._engine.flights) - stats.num_running),
            waiting_tokens=self._waiting_tokens,
            kv_pages_free=stats.kv_pages_free,
            kv_pages_total=stats.kv_pages_total,
            adapter_pages_free=stats.adapter_pages_free,
            adapter_pages_total=stats.adapter_pages_total,
        )


def host_name(number: int) -> HostName:
    """Names sort as numbers do."""
    return HostName(f"host-{number:04}")
