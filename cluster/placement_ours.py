"""Our placement: even hosts, few bytes moved, ranks apart only where mixing them costs. Owns: the policy.

Plans are made of what is in force: one moves only what must, others level the hosts within the byte budget, with the
ranks of the hosts as they are or as they would best be. One of these is taken where it is clearly better. How a plan
is filled is placement_board's.
"""

from functools import partial

import numpy as np

from cluster.placement_board import Board
from cluster.placement_classes import Ideal, Ranges, ideal, is_outside, whole_range
from cluster.placement_input import (
    Flags,
    Numbers,
    PlacementInput,
    Plan,
    Problem,
    Ranks,
    problem_of,
    shares_of,
    spare_host,
    utilisation,
)
from cluster.view import Shares

MARGIN = 0.05
"""A placement stays unless another's peak and spread are lower by this much."""
_SLACK = 0.01
"""Hosts are filled this far above the even level, so that few adapters must be split to fit."""
_TINY = 0.004
"""Of the level: an adapter gives up parts of its traffic that are smaller, and the copies behind them."""
_SEARCHED = 200_000
"""Adapters × hosts up to which other ways to pack are tried where memory is short; more would take over a second."""
_HOT = 0.5
"""An adapter that fills this much of a mean host has a second copy; it keeps it down to half of that."""


def place(given: PlacementInput) -> Shares:
    """Shares that keep the busiest host and the spread low under the high forecast; the same input, the same shares.

    Copies that only balance stay within `budget_bytes`. Host memory is kept where a greedy packing can. Cost: about
    adapters × hosts, in numpy.
    """
    if not given.hosts:
        return {}
    problem = problem_of(given)
    goal = ideal(problem)
    in_force = _in_force(problem, goal.level)
    now = Ranges(np.zeros_like(goal.ranks.low), np.maximum(goal.ranks.high, _largest_rank(problem, in_force)))
    best = _ranges(problem, goal, in_force, now)
    plans = [_planned(problem, goal, in_force, best, is_levelled=True)]
    if problem.planned.any():
        if (best.high != goal.ranks.high).any():
            plans.append(_planned(problem, goal, in_force, now, is_levelled=True))
        kept = _planned(problem, goal, in_force, now, is_levelled=False)
        plans = [plan for plan in plans if _badness(problem, plan) < _badness(problem, kept, MARGIN)] or [kept]
    return shares_of(problem, min(plans, key=partial(_badness, problem)))


def _planned(problem: Problem, goal: Ideal, in_force: Plan, ranges: Ranges, *, is_levelled: bool) -> Plan:
    """What is in force and hosts for what has none; if levelled, what lies above the level moved below it.

    Where memory is short other ways to pack are tried: adapters whole, from nothing, ranks anywhere.
    """
    empty = Plan(np.zeros_like(in_force.share), np.zeros_like(in_force.copy))
    anything = whole_range(problem, int(ranges.high.max()))
    is_small = in_force.copy.size <= _SEARCHED
    plans = []
    for start, whole, allowed in (
        (in_force, False, ranges),
        (in_force, True, ranges),
        (empty, True, ranges),
        (empty, True, anything),
    ):
        board = Board(problem, start, goal.level * (1 + _SLACK), allowed)
        if is_levelled and not whole:
            board.release()
        board.settle(whole=whole)
        board.add_copies()
        if is_levelled:
            board.relieve()
            if board.is_cramped and is_small:
                board.trade()
                board.relieve()
            # What went to a host that had a spare copy has one copy less.
            board.add_copies()
        plans.append(_with_spares(problem, board.plan, goal.level))
        if not (any(_breaches(problem, plans[-1])) or (is_levelled and is_small and board.is_cramped)):
            break
    return min(plans, key=partial(_badness, problem))


def _badness(problem: Problem, plan: Plan, margin: float = 0.0) -> tuple[float, float, float]:
    """What it breaches; then the peak and spread of the hosts' load, less a margin."""
    load = utilisation(problem, plan.share)
    return *_breaches(problem, plan), float((1 - margin) * (load.max() + load.std()))


def _breaches(problem: Problem, plan: Plan) -> tuple[float, float]:
    """Bytes that do not fit into their hosts, and bytes ordered above the budget."""
    return plan.excess_bytes(problem), max(0.0, _ordered_bytes(problem, plan.copy) - problem.budget)


def _ordered_bytes(problem: Problem, copy: Flags) -> float:
    """Bytes of copies that have not been ordered before, of adapters that live."""
    is_new = copy & ~(problem.held | problem.planned) & problem.held.any(axis=1)[:, None]
    return float((problem.num_bytes @ is_new).sum())


def _in_force(problem: Problem, level: float) -> Plan:
    """What `previous` says of the hosts that are left, without the copies that no longer pay or have no room."""
    work, rows = problem.demand * problem.cost, np.arange(len(problem.versions))
    share, copy = problem.before.copy(), problem.planned.copy()
    total = share.sum(axis=1, keepdims=True)
    share /= np.where(total > 1 + 1e-9, total, 1.0)
    is_tiny = (share > 0) & (share * work[:, None] < _TINY * level * problem.speed)
    most = share.argmax(axis=1)
    is_tiny[rows, most] = False
    share[rows, most] += np.where(is_tiny, share, 0.0).sum(axis=1)
    share[is_tiny], copy[is_tiny] = 0.0, False
    surplus = copy.sum(axis=1) - np.maximum(problem.min_copies, 1 + _is_hot(problem, level, _HOT / 2))
    for adapter in np.flatnonzero(surplus > 0):
        spare = np.flatnonzero(copy[adapter] & (share[adapter] == 0))
        copy[adapter, spare[::-1][: surplus[adapter]]] = False
    for host in np.flatnonzero(problem.num_bytes @ copy > problem.room):
        gone = _least_used(problem, copy[:, host], share[:, host] * work, problem.room[host])
        share[gone, host], copy[gone, host] = 0.0, False
    return Plan(share=share, copy=copy)


def _least_used(problem: Problem, copy: Flags, work: Numbers, room: float) -> Ranks:
    """Adapters of one host whose copies must go so that the rest fit: those with the least work per byte."""
    on = np.flatnonzero(copy)
    on = on[np.argsort(work[on] / problem.num_bytes[on], kind="stable")]
    held = np.cumsum(problem.num_bytes[on])
    return on[: np.searchsorted(held, held[-1] - room) + 1]


def _is_hot(problem: Problem, level: float, part: float) -> Flags:
    """Adapters that fill this part of a mean host."""
    work = problem.demand * problem.cost
    return (work > 0) & (work >= part * level * problem.speed.mean())


def _with_spares(problem: Problem, plan: Plan, level: float) -> Plan:
    """The plan and, as budget and memory allow, a second copy of what is hot and has one."""
    copy = plan.copy.copy()
    has = problem.held | problem.planned
    budget = problem.budget - _ordered_bytes(problem, copy)
    free = problem.room - problem.num_bytes @ copy
    hot = np.flatnonzero(_is_hot(problem, level, _HOT) & (copy.sum(axis=1) < min(2, problem.num_hosts)))
    for adapter in hot[np.argsort(-(problem.demand * problem.cost)[hot], kind="stable")].tolist():
        num_bytes = problem.num_bytes[adapter]
        host = spare_host(problem, adapter, copy[adapter], free)
        price = 0.0 if has[adapter, host] else num_bytes
        if free[host] >= num_bytes and budget >= price:
            copy[adapter, host] = True
            free[host] -= num_bytes
            budget -= price
    return Plan(share=plan.share, copy=copy)


def _largest_rank(problem: Problem, plan: Plan) -> Ranks:
    """That each host serves; 0 where it serves none."""
    served = (plan.share > 0) & (problem.demand > 0)[:, None]
    return np.asarray(np.max(served * problem.rank[:, None], axis=0, initial=0))


def _ranges(problem: Problem, goal: Ideal, in_force: Plan, now: Ranges) -> Ranges:
    """The ideal ranks on hosts that can be rid of others within the byte budget, cheapest first; the rest as now."""
    served = (in_force.share > 0) & (problem.demand > 0)[:, None]
    num_bytes = problem.num_bytes @ (served & is_outside(problem, goal.ranks))
    order = np.argsort(num_bytes, kind="stable")
    is_cheap = np.empty(problem.num_hosts, bool)
    is_cheap[order] = np.cumsum(num_bytes[order]) <= problem.budget
    return Ranges(np.where(is_cheap, goal.ranks.low, now.low), np.where(is_cheap, goal.ranks.high, now.high))
