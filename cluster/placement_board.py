"""A plan while it is being made. Owns: what is put where, and the sums that follow from it. Does not: choose a plan."""

import numpy as np

from cluster.placement_classes import Ranges, is_outside
from cluster.placement_input import Flags, Numbers, Plan, Problem, Ranks, spare_host

_SMALL = 0.02
"""Of the level: a smaller part of an adapter's traffic is not worth a copy of its own."""
_NOTHING = 1e-9
"""A share that is only rounding."""

_MAX_TRADES = 40
"""Exchanges in a row; each is worth at least a part in two hundred of the peak."""


class Board:
    """Shares and copies, and what they make of each host.

    Invariant: load, free and budget are those of share and copy; a host never serves a rank above its cap.
    """

    def __init__(self, problem: Problem, plan: Plan, level: float, ranges: Ranges) -> None:
        gone = (plan.share > 0) & (problem.demand > 0)[:, None] & is_outside(problem, ranges)
        self.share: Numbers = np.where(gone, 0.0, plan.share)
        self.copy: Flags = plan.copy & ~gone
        self._problem = problem
        self._level = level
        self._cap = ranges.high.copy()
        self._is_apart = bool(ranges.low.any())
        self._budget = problem.budget
        self._has = problem.held | problem.planned
        self.is_cramped = False
        """Whether a host lacked memory for something that might have gone there."""
        self._is_voluntary = problem.held.any(axis=1)
        self._work: Numbers = problem.demand * problem.cost
        self.free: Numbers = problem.room - problem.num_bytes @ self.copy
        self._tokens: Numbers = problem.demand @ self.share
        self.load: Numbers = (1 - problem.mixing) * (self._work @ self.share) / problem.speed + self._padding()

    @property
    def plan(self) -> Plan:
        """What has been filled in."""
        return Plan(self.share, self.copy)

    def _padding(self) -> Numbers:
        return self._problem.mixing * self._problem.rank_cost[self._cap] * self._tokens / self._problem.speed

    def _unit(self, adapter: int) -> Numbers:
        """What the whole traffic of an adapter adds to each host, without what a larger rank adds for others."""
        problem = self._problem
        if not problem.mixing:
            return np.asarray(self._work[adapter] / problem.speed)
        padded = problem.rank_cost[np.maximum(self._cap, problem.rank[adapter])] * problem.demand[adapter]
        return np.asarray(((1 - problem.mixing) * self._work[adapter] + problem.mixing * padded) / problem.speed)

    def put(self, adapter: int, host: int, part: float) -> None:
        """Give a host a part of an adapter's traffic, and a copy if it has none."""
        problem, num_bytes = self._problem, self._problem.num_bytes[adapter]
        if not self.copy[adapter, host]:
            self.copy[adapter, host] = True
            self.free[host] -= num_bytes
            self._budget -= num_bytes * (self._is_voluntary[adapter] and not self._has[adapter, host])
        self.share[adapter, host] += part
        self._move(adapter, host, part)
        rank = problem.rank[adapter]
        if part and problem.demand[adapter] and rank > self._cap[host]:
            self._cap[host] = rank
            own = (1 - problem.mixing) * (self._work @ self.share[:, host]) / problem.speed[host]
            self.load[host] = own + self._padding()[host]

    def take(self, adapter: int, host: int, part: float) -> None:
        """Take a part of an adapter's traffic off a host, and the copy with the last of it."""
        self._move(adapter, host, -part)
        self.share[adapter, host] -= part
        if self.share[adapter, host] < _NOTHING:
            self.share[adapter, host] = 0.0
            self.copy[adapter, host] = False
            self.free[host] += self._problem.num_bytes[adapter]

    def _move(self, adapter: int, host: int, part: float) -> None:
        self._tokens[host] += self._problem.demand[adapter] * part
        padded = (
            self._problem.rank_cost[max(self._cap[host], self._problem.rank[adapter])] * self._problem.demand[adapter]
        )
        own = (1 - self._problem.mixing) * self._work[adapter]
        self.load[host] += (own + self._problem.mixing * padded) * part / self._problem.speed[host]

    def settle(self, *, whole: bool = False) -> None:
        """Find hosts for all traffic that has none: largest ranks first where they are kept apart, then most work.

        If `whole`, split nothing and take the most bytes first, which packs memory best.
        """
        problem, missing = self._problem, 1 - self.share.sum(axis=1)
        adapters = np.flatnonzero(missing > _NOTHING)
        rank = problem.rank[adapters] * self._is_apart
        work = self._work[adapters] * missing[adapters]
        order = np.lexsort((-work, -problem.num_bytes[adapters]) if whole else (-work, -rank))
        for adapter in adapters[order].tolist():
            self._settle(adapter, float(missing[adapter]), whole)

    def add_copies(self) -> None:
        """Give every adapter as many copies as it must have."""
        for adapter in np.flatnonzero(self.copy.sum(axis=1) < self._problem.min_copies).tolist():
            while self.copy[adapter].sum() < self._problem.min_copies[adapter]:
                self.put(adapter, spare_host(self._problem, adapter, self.copy[adapter], self.free), 0.0)

    def _settle(self, adapter: int, part: float, is_whole: bool) -> None:
        if not self._problem.demand[adapter]:
            self.put(adapter, spare_host(self._problem, adapter, np.zeros_like(self.copy[adapter]), self.free), part)
            return
        while part > _NOTHING:
            unit, owned = self._unit(adapter), self._has[adapter] | self.copy[adapter]
            allowed = self._allowed(adapter, owned)
            after = self.load + unit * part
            fitting = allowed & (self._cap >= self._problem.rank[adapter]) if self._problem.mixing else allowed
            whole = fitting & (after <= self._level)
            amount = part
            if whole.any():
                # A host that has it, else one for no larger ranks than needed, else the least loaded.
                host = _least(after / self._level + 2.0 * self._cap - 1e4 * owned, whole)
            elif not is_whole and (usable := fitting & (self.load < self._level * (1 - _SMALL))).any():
                host = _least(self.load / self._level - 1e4 * owned, usable)
                amount = (self._level - self.load[host]) / unit[host]
                amount = part if (part - amount) * unit[host] < _SMALL * self._level else amount
            else:
                host = _least(after + self._raised(adapter), allowed)
            self.put(adapter, host, amount)
            part -= amount

    def _allowed(self, adapter: int, owned: Flags) -> Flags:
        """Hosts with room, and within the budget; all with room where there is none, or the one with most room."""
        num_bytes = self._problem.num_bytes[adapter]
        has_room = self.copy[adapter] | (self.free >= num_bytes)
        if not has_room.all():
            self.is_cramped = True
            has_room = has_room if has_room.any() else self.free == self.free.max()
        if not self._is_voluntary[adapter] or num_bytes <= self._budget:
            return has_room
        within = has_room & owned
        return within if within.any() else has_room

    def _raised(self, adapter: int) -> Numbers:
        """What an adapter of a larger rank than a host's adds to the cost of what the host already serves."""
        problem = self._problem
        more = problem.rank_cost[problem.rank[adapter]] - problem.rank_cost[self._cap]
        return np.asarray(problem.mixing * np.maximum(more, 0) * self._tokens / problem.speed)

    def release(self) -> None:
        """Take off every host what lies above the level: most load for the fewest bytes first."""
        for host in range(self._problem.num_hosts):
            self._relieve(host, is_settled=False)

    def relieve(self) -> None:
        """The same, but each piece is settled before the next is taken, so that none is left without memory."""
        for host in np.argsort(-self.load, kind="stable").tolist():
            self._relieve(host, is_settled=True)

    def _relieve(self, host: int, *, is_settled: bool) -> None:
        problem = self._problem
        on = np.flatnonzero((self.share[:, host] > 0) & (problem.demand > 0))
        padded = problem.rank_cost[self._cap[host]] * problem.demand[on]
        unit = ((1 - problem.mixing) * self._work[on] + problem.mixing * padded) / problem.speed[host]
        load = self.share[on, host] * unit
        has_gap = self.load < self._level * (1 - _SMALL)
        is_elsewhere = ((self._has[on] | self.copy[on]) & has_gap).any(axis=1)
        price = np.where(is_elsewhere, 1.0, problem.num_bytes[on])
        small = _SMALL * self._level
        while (excess := self.load[host] - self._level) > small and load.any():
            is_whole = load <= excess + small
            # A split leaves a copy more than a move does, so its bytes count twice.
            best = int(np.argmax(np.minimum(load, excess) / np.where(is_whole, price, 2 * price)))
            part = self.share[on[best], host] if is_whole[best] else excess / unit[best]
            self.take(int(on[best]), host, float(part))
            if is_settled:
                self._settle(int(on[best]), float(part), is_whole=False)
            load[best] = 0.0

    def trade(self) -> None:
        """Exchange adapters of the busiest host for others, or for nothing, while that lowers the peak."""
        for _ in range(_MAX_TRADES):
            host = int(self.load.argmax())
            if self.load[host] <= self._level * (1 + _SMALL) or not self._trade(host):
                return

    def _trade(self, host: int) -> bool:
        mine = np.flatnonzero((self.share[:, host] > 0) & (self._problem.demand > 0))
        theirs, there = np.nonzero(self.copy & ~self.copy[:, [host]])
        # And for every host a row of nothing in exchange.
        nothing, everywhere = np.full(self._problem.num_hosts, -1), np.arange(self._problem.num_hosts)
        theirs, there = np.r_[theirs, nothing], np.r_[there, everywhere]
        peak = self._traded_peak(host, mine, theirs, there)
        best, other = np.unravel_index(int(peak.argmin()), peak.shape)
        if peak[best, other] > self.load[host] * (1 - _SMALL / 4):
            return False
        adapter, partner, target = int(mine[best]), int(theirs[other]), int(there[other])
        part, partner_part = float(self.share[adapter, host]), float(self.share[partner, target])
        self.take(adapter, host, part)
        if partner >= 0:
            self.take(partner, target, partner_part)
            self.put(partner, host, partner_part)
        self.put(adapter, target, part)
        return True

    def _traded_peak(self, host: int, mine: Ranks, theirs: Ranks, there: Ranks) -> Numbers:
        """The load of the busier of two hosts after each exchange, [mine, theirs]; infinite where it is not allowed."""
        problem = self._problem
        is_one = theirs >= 0
        num_bytes = np.where(is_one, problem.num_bytes[theirs], 0.0)
        my_bytes = problem.num_bytes[mine][:, None]
        part = np.where(is_one, self.share[theirs, there], 0.0)
        own, padded = (1 - problem.mixing) * self._work, problem.mixing * problem.rank_cost[self._cap]
        comes = part * (own[theirs] + problem.demand[theirs] * padded[host]) / problem.speed[host]
        leaves = part * (own[theirs] + problem.demand[theirs] * padded[there]) / problem.speed[there]
        moved = own[mine][:, None] + np.outer(problem.demand[mine], padded)
        moved = self.share[mine, host][:, None] * moved / problem.speed
        after = np.maximum(
            self.load[host] - moved[:, [host]] + comes, (self.load[there] - leaves)[None] + moved[:, there]
        )
        fits = (self.free[there] + num_bytes >= my_bytes) & (self.free[host] + my_bytes >= num_bytes)
        fits &= ~self.copy[mine][:, there] & (self._cap[there] >= problem.rank[mine][:, None])
        fits &= ~is_one | (self._cap[host] >= problem.rank[theirs])
        price = np.where(self._has[mine][:, there], 0.0, my_bytes * self._is_voluntary[mine][:, None])
        price = price + np.where(self._has[theirs, host], 0.0, num_bytes * self._is_voluntary[theirs])
        return np.where(fits & (price <= self._budget), after, np.inf)


def _least(key: Numbers, among: Flags) -> int:
    return int(np.argmin(np.where(among, key, np.inf)))
