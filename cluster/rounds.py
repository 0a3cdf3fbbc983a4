"""Rounds: from what was asked for to shares, and from shares to copies. Owns: demand, shares, moves under way.

Does not: know calls, or decide who is alive. Policies place, moves.py says what follows; here it becomes orders.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster import moves
from cluster.demand import Demand
from cluster.events import DropAdapter, FetchAdapter, Publish, SendAdapter
from cluster.hosts import Hosts
from cluster.operating_points import OperatingPoints
from cluster.orders import Orders
from cluster.placement_input import PlacementInput, Policy
from cluster.registrations import Registrations
from cluster.view import MAX_PEERS, Adapter, HostName, HostState, HostView, Share, Shares
from lorajax.spec import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundConfig:
    """How fast copies follow the shares."""

    budget_bytes: int = 2**30
    """Bytes of copies that may be under way to balance, once a round has ordered; what keeps adapters alive is not
    counted."""
    fetches_per_host: int = 2
    """Copies on their way to one host at once."""
    drop_after_s: float = 30.0
    """A copy goes after this long without share and without tokens. Small saves memory; large saves fetches."""
    linger_s: float = 1.0
    """Copies that no name stands for go after this long: requests that were sent by the last table still find them."""


@dataclass(slots=True, kw_only=True)
class Rounds:
    """The placement and the copies that follow it.

    Invariant: after `begin`, `repair` and `add`, the shares of every known version are over serving hosts and sum to
    one, where there is any such host. A copy is told to go only if `moves.drops` says so or no name stands for it.
    Owner: the coordinator.
    """

    hosts: Hosts
    registrations: Registrations
    orders: Orders
    config: RoundConfig
    points: OperatingPoints
    policy: Policy
    demand: Demand
    number: int = 0
    shares: Shares = field(default_factory=dict)
    is_blind: bool = False
    """Whether an earlier coordinator has placed what there is, by a demand that this one has not seen yet."""
    _heat: Mapping[Version, float] = field(default_factory=dict)
    _queues: dict[HostName, deque[moves.Copy]] = field(default_factory=dict)
    _used_s: dict[Version, float] = field(default_factory=dict)
    _wanted_s: dict[tuple[HostName, Version], float] = field(default_factory=dict)
    """When each copy last had a share or tokens, or was first seen."""
    _nameless_s: dict[Version, float] = field(default_factory=dict)
    """Since when no name stands for a version of which there may be copies."""

    def note(self, host: HostName, tokens: Mapping[Version, int], now_s: float) -> None:
        """Count the tokens of one beat."""
        known = self.registrations.adapters()
        used = {version: count for version, count in tokens.items() if count and version in known}
        self.demand.observe(used, now_s=now_s)
        for version in used:
            self._used_s[version] = self._wanted_s[host, version] = now_s

    def used_s(self, version: Version) -> float:
        """When tokens of the version were last reported."""
        return self._used_s.get(version, -math.inf)

    def begin(self, now_s: float) -> int:
        """Place anew: shares at once, copies as far as bytes and hosts allow; returns how many moves that makes."""
        adapters, serving = self.registrations.adapters(), self.hosts.serving()
        forecast = self.demand.forecast(adapters, now_s=now_s)
        self._heat = {one: forecast[one].high * self.points.cost_s(adapters[one].rank) for one in adapters}
        given = PlacementInput(
            adapters=adapters,
            demand=forecast,
            points=self.points,
            hosts=serving,
            previous=self.shares,
            budget_bytes=self._budget_bytes(),
        )
        self.number += 1
        before = self.shares
        if self.demand.has_observed or not any(version in adapters for _, version in self.hosts.copies()):
            self.is_blind = False
        wanted = self._unheld() if self.is_blind else self.policy(given)
        self.shares = moves.repaired(wanted, adapters, serving)
        self.orders.send(Publish())
        plan = self._plan(adapters)
        self._queues.clear()
        num_copies = self._queue(moves.copies(plan))
        num_drops = self._drop_idle(plan, before, now_s)
        return num_copies + num_drops

    def repair(self) -> None:
        """Take hosts that no longer serve out of the shares, at once; the next round places properly."""
        self.shares = moves.repaired(self.shares, self.registrations.adapters(), self.hosts.serving())
        self.orders.send(Publish())

    def add(self, version: Version, *, replaced: Version | None = None) -> None:
        """Give a version that is new its shares, and the copies that it must have.

        One that replaces another takes over the shares, and the demand unless another name stands for it; hosts that
        hold the new one already come first, as spares where they had no share.
        """
        self._nameless_s.pop(version, None)
        adapters = {version: self.registrations.adapters()[version]}
        parts: dict[HostName, float] = dict.fromkeys(self._serving_holders(version), 0.0)
        if replaced is not None:
            parts |= {one.host: one.share for one in self.shares.get(replaced, ())}
            if replaced not in self.registrations.adapters():
                self.demand.succeed(replaced, version)
        wanted = {version: tuple(Share(host, part) for host, part in parts.items())}
        self.shares = {**self.shares, **moves.repaired(wanted, adapters, self.hosts.serving())}
        self._queue(moves.copies(self._plan(adapters)))

    def leave(self, version: Version, now_s: float) -> None:
        """Know that no name stands for a version; its copies linger."""
        self.shares = {one: shares for one, shares in self.shares.items() if one != version}
        self._used_s.pop(version, None)
        self._nameless_s.setdefault(version, now_s)

    def drop_nameless(self, now_s: float) -> None:
        """Have copies dropped that no name has stood for long enough."""
        for version, since_s in tuple(self._nameless_s.items()):
            if now_s - since_s >= self.config.linger_s:
                del self._nameless_s[version]
                for view in self.hosts.holders(version):
                    self._drop(view.spec.name, version)

    def fetch(self, host: HostName) -> None:
        """Order what the host is still to fetch, as far as it may at once."""
        queue = self._queues.get(host, deque())
        while queue and len(self.orders.fetches(host)) < self.config.fetches_per_host:
            copy = queue.popleft()
            if self._is_wanted(copy):
                self._fetch(copy)

    def _plan(self, adapters: Mapping[Version, Adapter]) -> moves.Plan:
        serving = self.hosts.serving()
        coming: dict[Version, list[HostName]] = {}
        for view in serving:
            for version in self.orders.fetches(view.spec.name):
                coming.setdefault(version, []).append(view.spec.name)
        return moves.Plan(
            adapters=adapters,
            shares=self.shares,
            hosts=serving,
            holders={one: self._serving_holders(one) for one in adapters},
            coming=coming,
            heat=self._heat,
            budget_bytes=self._budget_bytes(),
        )

    def _unheld(self) -> Shares:
        """The shares of what no serving host holds: all else goes by who holds it."""
        return {version: shares for version, shares in self.shares.items() if not self._serving_holders(version)}

    def _budget_bytes(self) -> int:
        """What the budget leaves beside the copies that are still under way to balance."""
        known = self.registrations.adapters()
        under_way = sum(
            known[version].num_bytes
            for view in self.hosts.serving()
            for version in self.orders.fetches(view.spec.name)
            if version in known and len(self._serving_holders(version)) >= max(1, known[version].min_copies)
        )
        return max(0, self.config.budget_bytes - under_way)

    def _serving_holders(self, version: Version) -> list[HostName]:
        return [view.spec.name for view in self.hosts.holders(version) if view.state is HostState.SERVING]

    def _queue(self, copies: Iterable[moves.Copy]) -> int:
        num_copies = 0
        for copy in copies:
            self._queues.setdefault(copy.host, deque()).append(copy)
            num_copies += 1
        for host in tuple(self._queues):
            self.fetch(host)
        return num_copies

    def _is_wanted(self, copy: moves.Copy) -> bool:
        """Whether what the round wanted still holds now that the host's turn has come."""
        version, view = copy.adapter.version, self.hosts.view(copy.host)
        return (
            view is not None
            and view.state is HostState.SERVING
            and version in self.registrations.adapters()
            and not view.holds(version)
            and not self.hosts.is_leaving(copy.host, version)
            and version not in self.orders.fetches(copy.host)
        )

    def _fetch(self, copy: moves.Copy) -> None:
        target, version = self.hosts.view(copy.host), copy.adapter.version
        assert target is not None, "only what is wanted is fetched"
        peers = self._peers(target, version)
        does_collect = bool(peers) and target.spec.can_collect and peers[0].spec.can_collect
        ticket = self.orders.number() if does_collect else None
        self.orders.send(
            FetchAdapter(
                number=self.orders.number(),
                host=copy.host,
                adapter=self.registrations.adapters()[version],
                peers=tuple(view.spec.name for view in peers),
                ticket=ticket,
            )
        )
        if ticket is not None:
            self.orders.send(
                SendAdapter(
                    number=self.orders.number(),
                    host=peers[0].spec.name,
                    version=version,
                    target=copy.host,
                    ticket=ticket,
                )
            )

    def _peers(self, target: HostView, version: Version) -> list[HostView]:
        """Whom the copy can come from: those that can collect first if the target can, the least busy first."""
        able = [view for view in self.hosts.holders(version) if view.state is not HostState.STARTING]

        def order(view: HostView) -> tuple[bool, int, HostName]:
            is_stream = target.spec.can_collect and not view.spec.can_collect
            return is_stream, len(self.orders.waiting(view.spec.name)), view.spec.name

        return sorted(able, key=order)[:MAX_PEERS]

    def _drop_idle(self, plan: moves.Plan, before: Shares, now_s: float) -> int:
        """Have copies dropped that were not wanted for long, with the shares up to now or since; returns how many."""
        wanted_s: dict[tuple[HostName, Version], float] = {}
        idle: list[tuple[HostName, Version]] = []
        for host, version in self.hosts.copies():
            if version not in plan.adapters:
                self._nameless_s.setdefault(version, now_s)
                continue
            shares = (*before.get(version, ()), *plan.shares.get(version, ()))
            has_share = any(share.host == host for share in shares)
            since_s = now_s if has_share else self._wanted_s.get((host, version), now_s)
            wanted_s[host, version] = since_s
            is_free = self.hosts.is_serving(host) and not self.orders.is_sending(host, version)
            if now_s - since_s >= self.config.drop_after_s and is_free:
                idle.append((host, version))
        self._wanted_s = wanted_s
        gone = moves.drops(plan, idle)
        for host, version in gone:
            self._drop(host, version)
        return len(gone)

    def _drop(self, host: HostName, version: Version) -> None:
        self.hosts.drop(host, version)
        self.orders.send(DropAdapter(number=self.orders.number(), host=host, version=version))
