"""How much every host must carry, and up to which rank. Owns: that ideal, as a fluid. Does not: know single adapters.

Demand is poured into hosts, largest rank first, as if every adapter could be split anywhere. Where ranks cost each
other nothing all hosts take all ranks; where they do, this pouring is the best there is for equal hosts.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from cluster.placement_input import Flags, Problem, Ranks
from lorajax.spec import MAX_RANK

_STEPS = 30
"""Of the bisection: the level is right to one part in 10⁹."""
_MAX_SWAPS = 500
"""Pairs of hosts that are tried in each other's place, neighbours first: all of a small cluster."""
_PAYS = 0.01
"""Hosts are kept to some ranks only where that lowers the level by this much."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranks that each host should serve, both ends included, [host]."""

    low: Ranks
    high: Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """What an even placement would look like."""

    level: float
    """Utilisation that no placement can have every host below."""
    ranks: Ranges
    order: Ranks
    """Hosts by falling ranks."""


def ideal(problem: Problem) -> Ideal:
    """The lowest level, and caps that reach it while hosts keep about the ranks they serve now."""
    free = float((problem.demand * problem.cost).sum() / problem.speed.sum())
    top = int(problem.rank[problem.demand > 0].max(initial=0))
    anything = whole_range(problem, top if problem.mixing else MAX_RANK)
    if not problem.mixing or not free:
        return Ideal(level=free, ranks=anything, order=np.arange(problem.num_hosts))
    padded = float(problem.rank_cost[top] * problem.demand.sum() / problem.speed.sum())
    mixed = (1 - problem.mixing) * free + problem.mixing * padded
    found = [_poured(problem, order, free, mixed) for order in _orders(problem)]
    lowest = min(option.level for option in found)
    best = _swapped(problem, next(option for option in found if option.level <= lowest * (1 + _PAYS)), free)
    return best if best.level < mixed * (1 - _PAYS) else Ideal(level=mixed, ranks=anything, order=best.order)


def whole_range(problem: Problem, top: int) -> Ranges:
    """Every rank up to one, on every host."""
    return Ranges(np.zeros(problem.num_hosts, np.int64), np.full(problem.num_hosts, top, np.int64))


def is_outside(problem: Problem, ranges: Ranges) -> Flags:
    """Where an adapter's rank is not for a host, [adapter, host]."""
    rank = problem.rank[:, None]
    return np.asarray((rank < ranges.low) | (rank > ranges.high))


def _orders(problem: Problem) -> list[Ranks]:
    """Orders in which hosts may take the largest ranks: as they do now, slowest first, fastest first."""
    tokens = problem.demand @ problem.before
    mean_rank = (problem.demand * problem.rank) @ problem.before / np.maximum(tokens, 1e-300)
    return [np.argsort(key, kind="stable") for key in (-mean_rank, problem.speed, -problem.speed)]


def _swapped(problem: Problem, start: Ideal, low: float) -> Ideal:
    """Better still where unequal hosts change places: how many a rank fills is a whole number, which fast ones feel."""
    best = start
    pairs = ((i, i + apart) for apart in range(1, problem.num_hosts) for i in range(problem.num_hosts - apart))
    for first, second in itertools.islice(pairs, _MAX_SWAPS):
        order = best.order.copy()
        order[[first, second]] = order[[second, first]]
        if problem.speed[order[first]] != problem.speed[order[second]]:
            level = best.level * (1 - _PAYS / 4)
            if level > low and _pour(problem, order, level) is not None:
                best = _poured(problem, order, low, level)
    return best


def _poured(problem: Problem, order: Ranks, low: float, high: float) -> Ideal:
    """The lowest level at which hosts in this order hold everything. `high` must be enough."""
    high *= 1 + 1e-9
    found = _pour(problem, order, high)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        tried = _pour(problem, order, middle)
        if tried is None:
            low = middle
        else:
            high, found = middle, tried
    assert found is not None, "everything fits where every host pays for the largest rank"
    return Ideal(level=high, ranks=found, order=order)


def _pour(problem: Problem, order: Ranks, level: float) -> Ranges | None:
    """What each host is given by pouring up to a level; None where something is left over."""
    ranks, tokens = problem.wanted_ranks
    low, high = np.full((2, problem.num_hosts), ranks[-1])
    kind, left = 0, float(tokens[0])
    for host in order.tolist():
        capacity = level * float(problem.speed[host])
        high[host] = ranks[kind]
        padded = problem.mixing * float(problem.rank_cost[ranks[kind]])
        while True:
            cost = (1 - problem.mixing) * float(problem.rank_cost[ranks[kind]]) + padded
            if capacity < left * cost:
                left -= capacity / cost
                low[host] = ranks[kind]
                break
            capacity -= left * cost
            kind += 1
            if kind == len(ranks):
                return Ranges(low, high)
            left = float(tokens[kind])
    return None
