"""LoRAServe's placement: ranks apart by budget, hosts equally full, and the fewest bytes moved."""

import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from cluster.placement import POLICIES
from cluster.placement_input import problem_of, relabelled
from tests.cluster.brute_force_placement import adapter, asked, host, loads
from tests.cluster.test_placement import carried_out

place = POLICIES["loraserve"]


def skewed(seed: int, num_adapters: int = 40, num_hosts: int = 6):
    random = np.random.default_rng(seed)
    adapters = [adapter(i, int(rank)) for i, rank in enumerate(random.choice([8, 32, 128], num_adapters))]
    demand = random.permutation(1000 * np.arange(1.0, num_adapters + 1) ** -1.1)
    return asked(adapters, demand.tolist(), [host(j) for j in range(num_hosts)])


@pytest.mark.parametrize("seed", range(5))
def test_hosts_are_equally_full_by_its_own_measure(seed):
    question = skewed(seed)
    load = list(loads(question, place(question)).values())
    assert max(load) == pytest.approx(min(load), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_each_rank_has_the_whole_hosts_of_its_budget_to_itself(seed):
    question = skewed(seed)
    work, ranks_on = defaultdict(float), defaultdict(set)
    for name, one in question.adapters.items():
        work[one.rank] += question.demand[name].high * question.points.cost_s(one.rank)
    for name, parts in place(question).items():
        for part in parts:
            ranks_on[part.host].add(question.adapters[name].rank)
    level = sum(work.values()) / len(question.hosts)
    alone = [ranks for ranks in ranks_on.values() if len(ranks) == 1]
    for rank in work:
        assert alone.count({rank}) >= int(work[rank] / level + 1e-9)


def test_nothing_moves_when_nothing_changed():
    question = skewed(1)
    shares = place(question)
    assert place(carried_out(question, shares)) == shares


@pytest.mark.parametrize("seed", range(10))
def test_relabelling_moves_the_fewest_bytes_of_all_permutations(seed):
    random = np.random.default_rng(seed)
    adapters = [adapter(i, int(rank)) for i, rank in enumerate(random.choice([8, 32, 128], 12))]
    held = [np.flatnonzero(random.random(12) < 0.4).tolist() for _ in range(4)]
    question = asked(adapters, [1.0] * 12, [host(j, holds=held[j]) for j in range(4)])
    problem, copy = problem_of(question), random.random((12, 4)) < 0.4

    def moved(order) -> float:
        placed = np.zeros_like(copy)
        placed[:, list(order)] = copy
        return float((problem.num_bytes @ (placed & ~problem.held)).sum())

    assert moved(relabelled(problem, copy)) == min(map(moved, itertools.permutations(range(4))))


def test_hosts_of_unlike_speed_never_change_places():
    hosts = [host(0, speed=1.0, holds=[1]), host(1, speed=2.0, holds=[0])]
    problem = problem_of(asked([adapter(0, 8), adapter(1, 8)], [1.0, 1.0], hosts))
    assert relabelled(problem, np.eye(2, dtype=bool)).tolist() == [0, 1]


def test_hosts_are_level_by_the_mean_though_forecasts_differ_in_spread():
    question = asked([adapter(number, 8) for number in range(11)], [1000.0] + 10 * [100.0], [host(j) for j in range(4)])
    wide = {
        version: replace(forecast, high=forecast.high if forecast.mean == 1000.0 else 300.0)
        for version, forecast in question.demand.items()
    }
    load = defaultdict(float)
    for version, parts in place(replace(question, demand=wide)).items():
        for part in parts:
            load[part.host] += part.share * wide[version].mean
    assert max(load.values()) <= 1.01 * min(load.values())
