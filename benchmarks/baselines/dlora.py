"""dLoRA's placement, reconstructed: copies by popularity, then integer programs that level hosts. Owns: the algorithm.

All adapters are taken as equally large and equally costly, as there: it knows no ranks. Each round the most and the
least loaded hosts exchange adapters by one small integer program, which weighs the largest load against what moves.
Our choice, for lack of theirs: hosts have room for twice as many copies as there are adapters.
Source: dLoRA (OSDI 2024), section 5; its artifact's engine_manager.py and migration_ilp.py.
"""

import heapq
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_array, csr_array, eye_array, kron

from cluster.placement_input import (
    Numbers,
    PlacementInput,
    Plan,
    Problem,
    Ranks,
    add_copies,
    problem_of,
    shares_of,
)
from cluster.view import Shares

_COPIES = 2
_NUM_HOSTS = 2
"""Loaded hosts of one program, and as many others."""
_NUM_ADAPTERS = 16
"""Adapters of the loaded hosts that one program may move, most wanted first."""
_TOLERATED = 0.1
"""Load above the mean that is left alone."""
_MOVE_COST = 0.05
"""Of an adapter's whole traffic on a host that lacks it, against the largest load."""
_NOTHING = 1e-6


def place(given: PlacementInput) -> Shares:
    """Shares that level tokens/s; what is in force stays but for a few adapters. The same input, the same shares."""
    if not given.hosts:
        return {}
    problem = problem_of(given, want=attrgetter("mean"))
    share = problem.before / np.maximum(problem.before.sum(axis=1, keepdims=True), _NOTHING)
    slots = -(-_COPIES * len(problem.versions) // problem.num_hosts)
    wanted = _wanted_copies(problem)
    _drop_surplus(share, wanted)
    _place_new(problem, share, wanted)
    _level(problem, share, slots)
    copy = share > 0
    add_copies(problem, copy)
    return shares_of(problem, Plan(share, copy))


def _wanted_copies(problem: Problem) -> Ranks:
    """By popularity: one in the mean, but at least one."""
    wanted = (problem.demand + _NOTHING) / (problem.demand + _NOTHING).mean()
    return np.clip(wanted.astype(int), problem.min_copies, problem.num_hosts)


def _drop_surplus(share: Numbers, wanted: Ranks) -> None:
    """Take copies from adapters that have twice as many as they should: those with the smallest shares."""
    for adapter in np.flatnonzero((share > 0).sum(axis=1) >= 2 * wanted).tolist():
        share[adapter, np.argsort(-share[adapter], kind="stable")[wanted[adapter] :]] = 0.0
        share[adapter] /= share[adapter].sum()


def _place_new(problem: Problem, share: Numbers, wanted: Ranks) -> None:
    """Give adapters that are nowhere copies, in equal parts, where least is wanted."""
    new = np.flatnonzero(share.sum(axis=1) < 0.5)
    busy = [(float(load), host) for host, load in enumerate(problem.demand @ share)]
    heapq.heapify(busy)
    for adapter in new[np.argsort(-problem.demand[new], kind="stable")].tolist():
        count = int(wanted[adapter])
        taken = [heapq.heappop(busy) for _ in range(count)]
        for load, host in taken:
            share[adapter, host] = 1 / count
            heapq.heappush(busy, (load + (problem.demand[adapter] + _NOTHING) / count, host))


def _level(problem: Problem, share: Numbers, slots: int) -> None:
    """Have groups of hosts exchange traffic: the most loaded with the least loaded, the next with the next."""
    load = problem.demand @ share / problem.speed
    order = np.argsort(-load, kind="stable")
    for first in range(0, problem.num_hosts // 2, _NUM_HOSTS):
        loaded = order[first : first + _NUM_HOSTS]
        if load[loaded[0]] <= (1 + _TOLERATED) * load.mean() + _NOTHING:
            return
        others = order[max(first, problem.num_hosts - first - _NUM_HOSTS) : problem.num_hosts - first]
        _exchange(problem, share, slots, loaded, np.union1d(loaded, others))


def _exchange(problem: Problem, share: Numbers, slots: int, loaded: Ranks, hosts: Ranks) -> None:
    """Level a group of hosts by moving what the loaded ones are asked for most."""
    traffic = problem.demand * share[:, loaded].sum(axis=1)
    adapters = np.argsort(-traffic, kind="stable")[:_NUM_ADAPTERS]
    adapters = adapters[traffic[adapters] > 0]
    on = np.ix_(adapters, hosts)
    fixed = np.delete(share[:, hosts], adapters, axis=0)
    room = np.maximum(slots - (fixed > 0).sum(axis=0), (share[on] > 0).sum(axis=0))
    load = np.delete(problem.demand, adapters) @ fixed / problem.speed[hosts]
    share[on] = _solved(problem, adapters, hosts, _Group(share[on], load, room))


@dataclass(frozen=True, slots=True)
class _Group:
    """Some adapters on some hosts."""

    share: Numbers
    """[adapter, host]"""
    load: Numbers
    """Of all other adapters, [host]."""
    room: Ranks
    """Copies of these adapters, [host]."""


def _solved(problem: Problem, adapters: Ranks, hosts: Ranks, group: _Group) -> Numbers:
    """The new shares of these adapters on these hosts; the old ones where the solver finds none."""
    share, size, (num_adapters, num_hosts) = group.share, group.share.size, group.share.shape
    demand = (problem.demand[adapters][:, None] / problem.speed[hosts]).ravel()
    unit = (demand.sum() / num_hosts + group.load.sum()) / num_hosts
    total = share.sum(axis=1)
    # Variables: shares, then whether there is a copy (both adapter by adapter), then the largest load.
    each = eye_array(size)
    of_adapter = kron(eye_array(num_adapters), np.ones((1, num_hosts)))
    of_host = kron(np.ones((1, num_adapters)), eye_array(num_hosts))
    rows = block_array(
        [
            [of_adapter, None, csr_array((num_adapters, 1))],
            [of_host.multiply(demand / unit), None, csr_array(-np.ones((num_hosts, 1)))],
            [None, of_host, None],
            [each, -each.multiply(np.repeat(total, num_hosts)), None],
        ]
    )
    found = milp(
        np.r_[np.zeros(size), _MOVE_COST * (share == 0).ravel() * demand / unit + _NOTHING, 1.0],
        constraints=LinearConstraint(
            rows.tocsr(),
            np.r_[total, np.full(2 * num_hosts + size, -np.inf)],
            np.r_[total, -group.load / unit, group.room, np.zeros(size)],
        ),
        integrality=np.r_[np.zeros(size), np.ones(size), 0],
        bounds=Bounds(0, np.r_[np.ones(2 * size), np.inf]),
        options={"node_limit": 200, "mip_rel_gap": 0.02, "presolve": False},
    )
    if found.x is None:
        return share
    parts = np.where(found.x[:size] < _NOTHING, 0.0, found.x[:size]).reshape(share.shape)
    return np.asarray(parts * (total / parts.sum(axis=1))[:, None])
