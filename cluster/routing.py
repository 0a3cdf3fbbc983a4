"""Which host answers a request. Owns: the choice, by the plan and by what hosts do now. Does not: send.

The placement's shares give the candidates, and a few of the least busy hosts stand beside them. Each is judged by when
it would have the answer ready, and by what a larger rank costs the others there. Hosts that are about equal take turns
in the proportions of the shares; a host outside the plan must be clearly better, one without a copy most of all. An
adapter on the device makes its host sooner by what loading it would take: that is all the stickiness there is. Another
`Routing` than OURS judges otherwise, and as many hosts as it wants.
"""

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from random import Random

from cluster.copy_price import CopyPrice
from cluster.host_time import HostTime, Work
from cluster.host_times import HostTimes
from cluster.operating_points import OperatingPoints
from cluster.pace import Pace
from cluster.routing_input import Ask, Candidate, RouterConfig, Routing, View
from cluster.turns import FAR, Turns
from cluster.view import MAX_PEERS, Adapter, HostLoad, HostName, HostState, Table
from lorajax.errors import DeadlineExceeded, Overloaded, Unavailable
from lorajax.spec import Level, Version

__all__ = ["OURS", "Ask", "Fetch", "Route", "Router", "RouterConfig"]

_LAST_RESORTS = 4
"""Least busy hosts that are judged where no other is left."""
_PART = 0.1
"""Of the latency target: what the plan may cost a request at most where copies are."""
_NEW_COPY = 0.25
"""Of the latency target: how much sooner a host must be, at least, for a copy of the mean adapter that nobody planned.
Queue noise would copy everything everywhere, and the 95th percentile of waits gains nothing by that."""
_LOAD_SPEEDUP = 10.0
"""How much sooner an adapter comes from host memory than from another host."""
_FIRST_GUESS_TOKENS = 128.0
_GUESS_WEIGHT = 0.02
_MAX_RETRY_S = 30.0
_MAX_COSTS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """An adapter that the host lacks, and who has it."""

    adapter: Adapter
    peers: tuple[HostName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes."""

    host: HostName
    address: str
    fetches: tuple[Fetch, ...]
    first_token_s: float
    """Predicted wait, by the operating points."""
    chosen_s: float


def _score_s(ask: Ask, candidate: Candidate, view: View) -> float:
    """When it would have the answer ready, what that costs the others there, and what the plan has against it."""
    config = view.config
    score_s = candidate.last_s + min(_raised_s(candidate, view), config.ttft_p95_s)
    if view.leads is None:
        return score_s
    score_s += min(config.patience_s, _PART * config.ttft_p95_s) * view.leads.get(candidate.name, FAR) / FAR
    if candidate.name not in view.leads:
        score_s += sum(view.copy_s(version) for version in ask.versions if not candidate.host.holds(version))
    return score_s


def _raised_s(candidate: Candidate, view: View) -> float:
    """What all who decode there lose together where kernels pad them to a rank that is larger than theirs."""
    host, work = candidate.host, candidate.work
    if not (view.mixing and host.ranks) or work.rank <= (largest := max(host.ranks)):
        return 0.0
    longer_s = view.mixing * host.num_requests * (view.cost_s(work.rank) - view.cost_s(largest)) / host.spec.speed
    return work.new_tokens * host.num_requests * longer_s


OURS = Routing(score=_score_s, max_planned=8, num_spill=4)
"""Soonest done, in the proportions of the plan where that makes no difference."""


@dataclass(slots=True)
class _Flight:
    """One request on a host."""

    host: HostTime
    work: Work
    route: Route
    versions: tuple[Version, ...]
    num_tokens: int = 0
    has_first: bool = False


class Router:
    """Routes by the last table and the beats since; keeps its own count of what it has sent where.

    Invariant: every request between `started` and `ended` is counted on one host.
    Owner: the front door's event loop. A choice takes tens of microseconds (`python -m benchmarks routing`).
    """

    def __init__(self, config: RouterConfig, points: OperatingPoints, routing: Routing = OURS) -> None:
        """Know no host."""
        self._config = config
        self._routing = routing
        self._random = Random(config.seed)  # noqa: S311  # no secret
        self._points = points
        self._cost_s = lru_cache(_MAX_COSTS)(points.cost_s)
        self._hosts = HostTimes(points.cost_s(0))
        self._adapters: Mapping[Version, Adapter] = {}
        self._turns = Turns()
        self._copies = CopyPrice(_NEW_COPY * config.ttft_p95_s)
        self._flights: dict[str, _Flight] = {}
        self._new_tokens = _FIRST_GUESS_TOKENS
        self._pace = Pace()

    def update(self, table: Table) -> None:
        """Go by a new table. What beats have said since of a host that lives on is kept."""
        self._hosts.update(table.hosts)
        self._adapters = {one.adapter.version: one.adapter for one in table.registrations.values()}
        self._turns.update(table.shares)
        self._copies.update(self._adapters)

    def beat(
        self, host: HostName, state: HostState, load: HostLoad, copies: Mapping[Version, Level] | None, now_s: float
    ) -> None:
        """Learn what a host says of itself; `copies` is None where nothing has changed."""
        self._hosts.beat(host, state, load, copies, now_s)

    def failed(self, host: HostName, now_s: float) -> None:
        """Avoid a host for a while: a connection to it failed."""
        if (known := self._hosts.get(host)) is not None:
            known.avoided_until_s = now_s + self._config.avoid_s

    def started(self, request_id: str, route: Route, ask: Ask) -> None:
        """Count a request on the host of its route."""
        if (host := self._hosts.get(route.host)) is None:
            return
        flight = self._flights[request_id] = _Flight(host, self._work(ask, host), route, ask.versions)
        host.begin(flight.work)
        self._copies.opened(ask.versions)
        self._hosts.reorder(route.host)
        if ask.versions:
            self._turns.took(self._lead_version(ask), route.host)

    def first_token(self, request_id: str, now_s: float) -> None:
        """Know that a request's prompt was read, and how long that took."""
        flight = self._flights.get(request_id)
        if flight is not None and not flight.has_first:
            self._pace.see(now_s - flight.route.chosen_s, flight.route.first_token_s)
            self._hosts.came(flight.route.host, [fetch.adapter.version for fetch in flight.route.fetches])
            self._read(flight)

    def holds(self, host: HostName, version: Version) -> bool:
        """Whether a host is known to have an adapter in memory."""
        return (known := self._hosts.get(host)) is not None and known.holds(version)

    def generated(self, request_id: str, num_tokens: int) -> None:
        """Count tokens of a request: the lengths of answers to come are guessed by those that were."""
        if request_id in self._flights:
            self._flights[request_id].num_tokens += num_tokens

    def ended(self, request_id: str, now_s: float) -> None:
        """Count a request no more, however it ended."""
        if (flight := self._flights.pop(request_id, None)) is None:
            return
        if not flight.has_first:
            self._read(flight)
        flight.host.end(flight.work)
        self._copies.closed(flight.versions)
        self._hosts.reorder(flight.host.spec.name)
        if flight.num_tokens:
            self._copies.took(now_s - flight.route.chosen_s)
            self._new_tokens += _GUESS_WEIGHT * (flight.num_tokens - self._new_tokens)

    def _read(self, flight: _Flight) -> None:
        flight.has_first = True
        flight.host.read_prompt(flight.work)
        self._hosts.reorder(flight.host.spec.name)

    def choose(self, ask: Ask, now_s: float, exclude: frozenset[HostName] = frozenset()) -> Route:
        """The host that the routing likes best, of those that can begin in time.

        Raises: Unavailable where no host is left to ask; Overloaded where none can begin before the deadline, which
        names the predicted wait; DeadlineExceeded where the deadline has passed.
        """
        left_s = math.inf if ask.deadline_s is None else ask.deadline_s - now_s
        if left_s <= 0:
            raise DeadlineExceeded(f"the deadline passed {-left_s:.3g} s ago; send the request with more time")
        names = self._names(ask, now_s, exclude)
        candidates = self._estimated(names, ask, now_s)
        if not candidates:
            raise Unavailable("no host can take it now; try again")
        pace = self._pace.factor if self._pace.is_known else 0.0  # points of other hardware refuse nobody
        # A host with nothing to do refuses nobody: a pace that is wrong would never be seen to be.
        in_time = [one for one in candidates if one.first_s * pace <= left_s or one.host.is_idle]
        if not in_time:
            wait_s = min(one.first_s for one in candidates) * pace
            raise Overloaded(
                f"the first token would take {wait_s:.3g} s and the deadline is in {left_s:.3g} s; "
                "try again, or with more time",
                retry_s=min(_MAX_RETRY_S, wait_s - left_s),
            )
        best = self._best(in_time, ask)
        missing = (one for one in ask.versions if one in self._adapters and not best.host.holds(one))
        return Route(
            host=best.name,
            address=best.host.spec.address,
            fetches=tuple(self._fetch(version, best.name) for version in missing),
            first_token_s=best.first_s,
            chosen_s=now_s,
        )

    def _names(self, ask: Ask, now_s: float, exclude: frozenset[HostName]) -> Iterable[HostName]:
        """Hosts to judge: the planned and the least busy ones; those that failed lately only if no other is left."""

        def is_open(name: HostName) -> bool:
            return name not in exclude and self._hosts.is_serving(name)

        def is_sound(name: HostName) -> bool:
            return is_open(name) and self._hosts[name].avoided_until_s <= now_s

        names = dict.fromkeys(filter(is_sound, self._planned(ask)))
        names.update(dict.fromkeys(islice(filter(is_sound, self._hosts), self._routing.num_spill)))
        return names or islice(filter(is_open, self._hosts), _LAST_RESORTS)

    def _planned(self, ask: Ask) -> Iterable[HostName]:
        for version in ask.versions:
            hosts = [share.host for share in self._turns.hosts(version)]
            if len(hosts) > self._routing.max_planned:
                leads = self._turns.leads(version)
                hosts = heapq.nsmallest(self._routing.max_planned, hosts, key=lambda host: leads.get(host, FAR))
            yield from hosts

    def _estimated(self, names: Iterable[HostName], ask: Ask, now_s: float) -> list[Candidate]:
        found = []
        for name in names:
            host = self._hosts[name]
            fetch_s = sum(self._fetch_s(version, host) for version in ask.versions)
            work = self._work(ask, host)
            found.append(Candidate(name, host, work, *host.times_s(work, fetch_s, now_s)))
        return found

    def _best(self, candidates: Iterable[Candidate], ask: Ask) -> Candidate:
        lead = self._lead_version(ask) if ask.versions else None
        view = View(
            shares=self._turns.hosts(lead) if lead else (),
            leads=self._turns.leads(lead) if lead else None,
            cost_s=self._cost_s,
            mixing=self._points.mixing,
            copy_s=self._copies.price_s,
            config=self._config,
            random=self._random,
        )
        score = self._routing.score
        return min(candidates, key=lambda one: (score(ask, one, view), one.name))

    def _lead_version(self, ask: Ask) -> Version:
        """The adapter whose plan a request with several goes by: the largest."""
        return max(ask.versions, key=lambda version: (self._rank(version), version))

    def _rank(self, version: Version) -> int:
        return self._adapters[version].rank if version in self._adapters else 0

    def _work(self, ask: Ask, host: HostTime) -> Work:
        rank = sum(self._rank(version) for version in ask.versions)
        cost_s, mixing = self._cost_s(rank), self._points.mixing
        if mixing and host.ranks:
            cost_s += mixing * (self._cost_s(max(rank, *host.ranks)) - cost_s)
        return Work(
            cost_s=cost_s,
            prompt_tokens=ask.prompt_tokens,
            new_tokens=min(ask.max_tokens, self._new_tokens),
            rank=rank,
        )

    def _fetch_s(self, version: Version, host: HostTime) -> float:
        level = host.copies.get(version, Level.STORE)
        if level is Level.DEVICE or version not in self._adapters:
            return 0.0
        seconds = self._adapters[version].num_bytes / self._points.fetch_bytes_per_s
        return seconds if level is Level.STORE else seconds / _LOAD_SPEEDUP

    def _fetch(self, version: Version, target: HostName) -> Fetch:
        """Whom the adapter can be had from: of the planned hosts if they have it, else of any."""
        planned = [share.host for share in self._turns.hosts(version)]
        peers = self._hosts.holders(version, planned, besides=target, limit=MAX_PEERS)
        if not peers:
            peers = self._hosts.holders(version, self._hosts, besides=target, limit=MAX_PEERS)
        return Fetch(adapter=self._adapters[version], peers=peers)
