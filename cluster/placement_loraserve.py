"""LoRAServe's placement, reconstructed from descriptions of it. Owns: the algorithm. Does not: improve on it.

The paper's own code is not published. Our additions are what any cluster here needs: adapters without demand are
spread by count, hosts may differ in speed, and copies are added until each adapter has as many as it must.
Source: LoRAServe (arXiv 2511.22880), section IV.
"""

from collections.abc import Iterable
from operator import attrgetter

import numpy as np

from cluster.placement_input import (
    Numbers,
    PlacementInput,
    Plan,
    Problem,
    add_copies,
    problem_of,
    relabelled,
    shares_of,
)
from cluster.view import Shares

_NOTHING = 1e-9
"""Server-equivalents that are only rounding."""


def place(given: PlacementInput) -> Shares:
    """Shares by budgets per rank, fractional packing and relabelling.

    Ignores host memory and the byte budget, as the original does, and counts ranks as if they did not slow each other.
    """
    if not given.hosts:
        return {}
    problem = problem_of(given, want=attrgetter("mean"))
    packing = _Packing(problem)
    leftovers = [piece for rank in packing.ranks for piece in packing.pack_rank(rank)]
    packing.place_leftovers(leftovers)
    host = relabelled(problem, packing.share > 0)
    share = np.zeros_like(packing.share)
    share[:, host] = packing.share
    copy = share > 0
    add_copies(problem, copy)
    return shares_of(problem, Plan(share, copy))


class _Packing:
    """Hosts that are filled with server-equivalents.

    Invariant: an adapter's share is its part that was put, `used` is what lies on each host.
    """

    def __init__(self, problem: Problem) -> None:
        work = problem.demand * problem.cost
        # What wants nothing wants a host all the same: a trace of demand spreads it.
        trace = (work.sum() or 1.0) * 1e-6 / max(len(work), 1)
        self._rank = problem.rank
        self._wanted: Numbers = np.maximum(work, trace)
        self._utilisation = self._wanted.sum() / problem.speed.sum()
        self._room: Numbers = self._utilisation * problem.speed
        self._used: Numbers = np.zeros(problem.num_hosts)
        self._top = np.zeros(problem.num_hosts, np.int64)
        self._next = 0
        self.share: Numbers = np.zeros((len(work), problem.num_hosts))
        self.ranks = sorted(set(problem.rank.tolist()), reverse=True)

    def pack_rank(self, rank: int) -> list[tuple[int, float]]:
        """Fill the hosts that this rank has to itself, largest demand first; what did not fit, (adapter, work)."""
        adapters = np.flatnonzero(self._rank == rank)
        adapters = adapters[np.argsort(-self._wanted[adapters], kind="stable")]
        reserved = self._reserve(float(self._wanted[adapters].sum()))
        return [piece for adapter in adapters.tolist() for piece in self._pack(adapter, reserved)]

    def _reserve(self, budget: float) -> list[int]:
        """The next hosts whose room the budget of a rank fills wholly."""
        reserved: list[int] = []
        while self._next < len(self._room) and budget > self._room[self._next] * (1 - _NOTHING):
            budget -= self._room[self._next]
            reserved.append(self._next)
            self._next += 1
        return reserved

    def _pack(self, adapter: int, hosts: Iterable[int]) -> list[tuple[int, float]]:
        left = float(self._wanted[adapter])
        for host in hosts:
            left -= self._put(adapter, host, left)
        return [(adapter, left)] if left > 0 else []

    def place_leftovers(self, pieces: Iterable[tuple[int, float]]) -> None:
        """Put each piece where its rank is least above the host's largest, then where least is used."""
        for adapter, work in pieces:
            left = work
            while left > 0:
                is_full = self._room - self._used <= _NOTHING * self._room
                excess = np.maximum(self._rank[adapter] - self._top, 0)
                host = int(np.lexsort((self._used / self._room, excess, is_full))[0])
                if is_full[host]:
                    self._add(adapter, host, left)
                    break
                left -= self._put(adapter, host, left)

    def _put(self, adapter: int, host: int, work: float) -> float:
        """Put as much as the host has room for; the amount, all of it where only rounding would be left."""
        room = max(float(self._room[host] - self._used[host]), 0.0)
        amount = work if work <= room + _NOTHING * self._room[host] else room
        if amount > _NOTHING * self._room[host] or amount == work:
            self._add(adapter, host, amount)
            return amount
        return 0.0

    def _add(self, adapter: int, host: int, work: float) -> None:
        self.share[adapter, host] += work / self._wanted[adapter]
        self._used[host] += work
        self._top[host] = max(self._top[host], self._rank[adapter])
