"""The front door on the virtual clock. Owns: a request's way to a host, its second try on another, its one outcome.

Does not: choose (the product's Router does) or queue (its FairQueue does). The rules are those of `cluster.front_door`
and `cluster.gate`, which do the same over gRPC, but for one: who waits for an adapter keeps a place before the hosts.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice

from benchmarks.outcomes.records import Outcome
from benchmarks.simulator.flight import Flight
from benchmarks.simulator.host import Host
from benchmarks.simulator.site import Site
from benchmarks.workloads.records import Arrival
from cluster.events import HostBeat
from cluster.fair_queue import FairQueue
from cluster.front_door import MAX_TRIES, MAX_WAITING, REJOIN_S, most_inside
from cluster.routing import Route, Router
from cluster.routing_input import Ask
from cluster.view import HostName, HostState, HostView, Table
from cluster.wire import verdict_of
from lorajax.errors import LorajaxError
from lorajax.spec import Version

_MAX_PEERS = 3
_ELSEWHERE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""Refusals of one host that say nothing of others."""


class Front:
    """One front door for all.

    Invariant: every arrival has one outcome in the end, and is at one host at most.
    """

    def __init__(self, site: Site, router: Router, hosts: Mapping[HostName, Host], began_s: float) -> None:
        """Know no table; the workload begins at `began_s`."""
        self.outcomes: dict[int, Outcome] = {}
        """By number of arrival."""
        self.late: set[int] = set()
        """Those that count, and failed, or whose first token came too late for the SLO."""
        self._config, self._clock, self._relay_s = site.config, site.clock, site.config.hardware.relay_s
        self._router, self._hosts, self._began_s = router, hosts, began_s
        self._table: Table | None = None
        self._queue = FairQueue(MAX_WAITING)
        self._waiting: dict[str, Flight] = {}
        self._num_inside = 0
        self._limit = 0
        self._at: dict[HostName, dict[str, Flight]] = {}

    def update(self, table: Table) -> None:
        """Route by a new table; what is at a host that is lost is lost too, unless it is back in a moment."""
        before = self._table.hosts if self._table is not None else {}
        self._table = table
        self._router.update(table)
        for name, view in before.items():
            if self._is_gone(name, view.spec.incarnation):
                flights = tuple(self._at.get(name, {}).values())
                self._clock.after(REJOIN_S, partial(self._cut, name, view.spec.incarnation, flights))
        self._limit = most_inside(table.hosts.values())
        self._admit()

    def hear(self, beat: HostBeat) -> None:
        """Route by what a host has just said."""
        self._router.beat(beat.host, beat.state, beat.load, beat.copies, beat.now_s)

    def arrive(self, number: int, arrival: Arrival) -> None:
        """Answer a request, as soon as it is its tenant's turn."""
        flight = Flight(number=number, id=str(number), arrival=arrival)
        if self._config.deadline_s is not None:
            flight.deadline = self._clock.after(self._config.deadline_s, partial(self._expire, flight))
        if not self._waiting and self._num_inside < self._limit:
            self._enter(flight)
            return
        try:
            self._queue.put(arrival.tenant, flight.id, arrival.prompt_tokens + arrival.output_tokens)
        except LorajaxError as error:
            self._record(flight, _code(error))
        else:
            self._waiting[flight.id] = flight

    def first_token(self, flight: Flight) -> None:
        """As `host.Doors`."""
        flight.first_s = self._clock.now_s + self._relay_s / 2
        self._router.first_token(flight.id, flight.first_s)
        if flight.first_s - self._began_s - flight.arrival.at_s > self._config.slo.ttft_s:
            self._miss(flight)

    def finished(self, flight: Flight) -> None:
        """As `host.Doors`."""
        self._leave_host(flight)
        self._end(flight, "OK")

    def refused(self, flight: Flight, error: Exception) -> None:
        """As `host.Doors`."""
        self._leave_host(flight)
        if flight.num_tokens or (code := _code(error)) not in _ELSEWHERE:
            self._end(flight, _code(error))
        else:
            flight.refusal = code
            self._try(flight)

    def lose(self, host: HostName) -> None:
        """Know that all connections to a host have broken."""
        for flight in tuple(self._at.get(host, {}).values()):
            self._lost(flight)

    def give_up(self) -> None:
        """End what is open: nobody waits any longer."""
        for flight in (*self._waiting.values(), *(one for at in self._at.values() for one in at.values())):
            self._record(flight, "DEADLINE_EXCEEDED")

    # A request's way.

    def _enter(self, flight: Flight) -> None:
        self._num_inside += 1
        if self._table is None:
            self._end(flight, "UNAVAILABLE")
            return
        arrival = flight.arrival
        if arrival.adapter:
            if (registration := self._table.registrations.get(arrival.adapter)) is None:
                self._end(flight, "NOT_FOUND")
                return
            flight.adapter, flight.version = registration.adapter, registration.adapter.version
        patience_s = self._config.deadline_s
        flight.ask = Ask(
            versions=(flight.version,) if flight.adapter else (),
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=arrival.output_tokens,
            deadline_s=None if patience_s is None else self._began_s + arrival.at_s + patience_s,
        )
        self._try(flight)

    def _try(self, flight: Flight) -> None:
        """Send it to the next host, unless there is none, or enough have refused it."""
        assert flight.ask is not None, "it was let in"
        if len(flight.tried) >= MAX_TRIES:
            self._end(flight, flight.refusal)
            return
        try:
            route = self._router.choose(flight.ask, self._clock.now_s, exclude=frozenset(flight.tried))
        except LorajaxError as error:
            self._end(flight, flight.refusal or _code(error))
            return
        flight.tried.add(route.host)
        flight.host = route.host
        self._at.setdefault(route.host, {})[flight.id] = flight
        self._router.started(flight.id, route, flight.ask)
        self._clock.after(self._relay_s / 2, partial(self._arrived, flight, route))

    def _arrived(self, flight: Flight, route: Route) -> None:
        if flight.host != route.host:
            return  # it has been given up meanwhile
        host = self._hosts[route.host]
        if not host.is_lost:
            host.submit(flight, self._peers(flight, route))
        elif not host.is_silent:
            self._lost(flight)

    def _peers(self, flight: Flight, route: Route) -> tuple[HostName, ...]:
        """Who has the adapter: also of one that the host seemed to have, for it may have been dropped meanwhile."""
        if route.fetches or flight.adapter is None or flight.adapter.version in self._hosts[route.host].pool.known:
            return route.fetches[0].peers if route.fetches else ()
        assert self._table is not None, "a route came of it"
        hosts, version = self._table.hosts.items(), flight.adapter.version
        return tuple(
            islice((name for name, view in hosts if name != route.host and _can_give(view, version)), _MAX_PEERS)
        )

    def _lost(self, flight: Flight) -> None:
        host = self._leave_host(flight)
        self._router.failed(host, self._clock.now_s)
        if flight.num_tokens:
            self._end(flight, "ABORTED")
        else:
            flight.refusal = "UNAVAILABLE"
            self._try(flight)

    def _leave_host(self, flight: Flight) -> HostName:
        host, flight.host = flight.host, None
        assert host is not None, "it is at a host"
        flight.last_host = host
        del self._at[host][flight.id]
        self._router.generated(flight.id, flight.num_tokens)
        self._router.ended(flight.id, self._clock.now_s)
        return host

    def _expire(self, flight: Flight) -> None:
        if self._waiting.pop(flight.id, None) is not None:
            self._queue.remove(flight.id)
            self._record(flight, "DEADLINE_EXCEEDED")
            return
        assert flight.host is not None, "it is waiting or at a host"
        self._hosts[flight.host].cancel(flight)
        self._leave_host(flight)
        self._end(flight, "DEADLINE_EXCEEDED")

    def _end(self, flight: Flight, code: str) -> None:
        self._record(flight, code)
        self._num_inside -= 1
        self._admit()

    def _record(self, flight: Flight, code: str) -> None:
        if flight.deadline is not None:
            flight.deadline.cancel()
        assert flight.number not in self.outcomes, "a request ends once"
        if code != "OK":
            self._miss(flight)
        self.outcomes[flight.number] = flight.outcome(code, self._clock.now_s + self._relay_s / 2, self._began_s)

    def _miss(self, flight: Flight) -> None:
        if flight.arrival.at_s >= self._config.warm_s:
            self.late.add(flight.number)

    def _admit(self) -> None:
        while self._waiting and self._num_inside < self._limit:
            key = self._queue.take()
            assert key is not None, "who waits has a place in the queue"
            self._enter(self._waiting.pop(key))

    def _is_gone(self, host: HostName, incarnation: int) -> bool:
        view = self._table.hosts.get(host) if self._table is not None else None
        return view is None or view.state is HostState.LOST or view.spec.incarnation != incarnation

    def _cut(self, host: HostName, incarnation: int, flights: Iterable[Flight]) -> None:
        if self._is_gone(host, incarnation):
            for flight in flights:
                if flight.host == host:
                    self._lost(flight)


def _can_give(view: HostView, version: Version) -> bool:
    return view.state in (HostState.SERVING, HostState.DRAINING) and view.holds(version)


def _code(error: Exception) -> str:
    return verdict_of(error, "").code.name
