"""What a placement is asked, and the question as arrays. Owns: these records, what a plan costs. Does not: place.

Arrays are [adapter, host], adapters by version and hosts by name, so that no answer depends on the order of a mapping.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cluster.operating_points import OperatingPoints
from cluster.view import Adapter, Forecast, HostName, HostView, Share, Shares
from lorajax.spec import MAX_RANK, Version

type Numbers = NDArray[np.float64]
type Ranks = NDArray[np.int64]
type Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementInput:
    """Everything a policy may look at."""

    adapters: Mapping[Version, Adapter]
    demand: Mapping[Version, Forecast]
    """An adapter that is missing wants nothing."""
    points: OperatingPoints
    hosts: tuple[HostView, ...]
    """Those that serve."""
    previous: Shares = field(default_factory=dict)
    """The placement now in force; may name adapters and hosts that are gone."""
    budget_bytes: int
    """Bytes of copies that may be ordered only to balance; what keeps adapters alive is not counted."""


type Policy = Callable[[PlacementInput], Shares]
"""Shares of every adapter, with as many copies as it must have and there are hosts; none where there is no host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The same, as arrays."""

    versions: tuple[Version, ...]
    hosts: tuple[HostName, ...]
    demand: Numbers
    """Tokens/s to plan for, [adapter]."""
    rank: Ranks
    cost: Numbers
    """Host-seconds per token, [adapter]."""
    rank_cost: Numbers
    """The same by rank, 0 … MAX_RANK."""
    mixing: float
    num_bytes: Numbers
    min_copies: Ranks
    """At most the number of hosts."""
    speed: Numbers
    """Relative, [host]."""
    room: Numbers
    """Bytes, [host]."""
    held: Flags
    """In memory now, [adapter, host]."""
    before: Numbers
    """Shares of `previous` on hosts that are left, [adapter, host]."""
    planned: Flags
    """Copies of `previous`, likewise; some may still be on their way."""
    budget: float
    wanted_ranks: tuple[Ranks, Numbers]
    """The ranks that are wanted, largest first, and the tokens/s of each."""

    @property
    def num_hosts(self) -> int:
        """How many there are."""
        return len(self.hosts)


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer as arrays, [adapter, host]."""

    share: Numbers
    copy: Flags
    """Wherever a share is above 0, and copies without traffic."""

    def excess_bytes(self, problem: Problem) -> float:
        """Bytes that do not fit into the memory of their hosts."""
        return float(np.maximum(problem.num_bytes @ self.copy - problem.room, 0).sum())


def problem_of(given: PlacementInput, want: Callable[[Forecast], float] = lambda forecast: forecast.high) -> Problem:
    """The arrays of a question; takes milliseconds for 10,000 adapters. Demand is what `want` says of a forecast.

    Quantiles do not add: a policy that sums demand over adapters, and does not balance by feedback, wants the mean.
    """
    versions = tuple(sorted(given.adapters))
    views = sorted(given.hosts, key=lambda view: view.spec.name)
    adapters = [given.adapters[version] for version in versions]
    row, column = {v: i for i, v in enumerate(versions)}, {view.spec.name: i for i, view in enumerate(views)}
    held, planned = np.zeros((2, len(versions), len(views)), bool)
    before = np.zeros((len(versions), len(views)))
    for host, view in enumerate(views):
        held[[row[version] for version in view.copies if version in row and view.holds(version)], host] = True
    for version, shares in given.previous.items():
        for share in shares:
            if version in row and share.host in column:
                before[row[version], column[share.host]] = share.share
                planned[row[version], column[share.host]] = True
    rank = np.array([adapter.rank for adapter in adapters], np.int64)
    rank_cost = np.array([given.points.cost_s(rank) for rank in range(MAX_RANK + 1)])
    wanted = [given.demand.get(version) for version in versions]
    demand = np.array([want(forecast) if forecast else 0.0 for forecast in wanted], float)
    return Problem(
        versions=versions,
        hosts=tuple(view.spec.name for view in views),
        demand=demand,
        rank=rank,
        cost=rank_cost[rank],
        rank_cost=rank_cost,
        mixing=given.points.mixing,
        num_bytes=np.array([adapter.num_bytes for adapter in adapters], float),
        min_copies=np.array([min(max(adapter.min_copies, 1), len(views)) for adapter in adapters], np.int64),
        speed=np.array([view.spec.speed for view in views], float),
        room=np.array([view.spec.host_bytes for view in views], float),
        held=held,
        before=before,
        planned=planned,
        budget=float(given.budget_bytes),
        wanted_ranks=_wanted_ranks(rank, demand),
    )


def _wanted_ranks(rank: Ranks, demand: Numbers) -> tuple[Ranks, Numbers]:
    tokens = np.bincount(rank, demand, MAX_RANK + 1)
    ranks = np.flatnonzero(tokens)[::-1]
    return ranks, tokens[ranks]


def utilisation(problem: Problem, share: Numbers) -> Numbers:
    """Part of each host's time that a placement takes, with what the ranks cost each other; 1 is all of it, [host]."""
    work = (problem.demand * problem.cost) @ share
    if problem.mixing:
        served = (share > 0) & (problem.demand > 0)[:, None]
        largest = np.max(served * problem.rank[:, None], axis=0, initial=0)
        padded = problem.rank_cost[largest] * (problem.demand @ share)
        work = (1 - problem.mixing) * work + problem.mixing * padded
    return work / problem.speed


def shares_of(problem: Problem, plan: Plan) -> Shares:
    """The arrays as an answer; a copy without traffic has the share 0."""
    found: list[list[Share]] = [[] for _ in problem.versions]
    rows, columns = np.nonzero(plan.copy)
    for row, column, part in zip(rows.tolist(), columns.tolist(), plan.share[rows, columns].tolist(), strict=True):
        found[row].append(Share(problem.hosts[column], part))
    return {version: tuple(shares) for version, shares in zip(problem.versions, found, strict=True)}


def relabelled(problem: Problem, copy: Flags) -> NDArray[np.intp]:
    """Which physical host each host of a plan should be, so that the fewest bytes move: `host[planned host]`.

    Only hosts of equal speed change places. Cost: hosts² × adapters multiplications and a Hungarian assignment.
    """
    needed = copy.astype(float).T @ (problem.num_bytes[:, None] * ~(problem.held | problem.planned))
    unlike = problem.speed[:, None] != problem.speed[None, :]
    return linear_sum_assignment(np.where(unlike, 1 + needed.sum(), needed))[1]


def add_copies(problem: Problem, copy: Flags) -> None:
    """Add copies in place until every adapter has as many as it must: where it is already, or where most room is."""
    free = problem.room - problem.num_bytes @ copy
    for adapter in np.flatnonzero(copy.sum(axis=1) < problem.min_copies).tolist():
        while copy[adapter].sum() < problem.min_copies[adapter]:
            host = spare_host(problem, adapter, copy[adapter], free)
            copy[adapter, host] = True
            free[host] -= problem.num_bytes[adapter]


def spare_host(problem: Problem, adapter: int, taken: Flags, free: Numbers) -> int:
    """Where one more copy of an adapter belongs: a host with room that has it already, else the one with most room."""
    has = problem.held[adapter] | problem.planned[adapter]
    fits = free >= problem.num_bytes[adapter]
    return int(np.lexsort((-free, -1 * has, ~fits, taken))[0])
