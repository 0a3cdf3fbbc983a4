"""Every system names a placement and a routing that there are."""

import pytest

from benchmarks.baselines.systems import SIMULATED, SYSTEMS
from cluster.cluster_config import POLICIES, ROUTINGS
from tests.benchmarks.baselines.questions import question


@pytest.mark.parametrize("name", SIMULATED)
def test_a_system_places_everything_and_routes(name):
    system = SIMULATED[name]
    assert len(system.place(question(tokens=[1.0] * 9))) == 9
    assert callable(system.route.score)


@pytest.mark.parametrize("name", SIMULATED)
def test_a_cluster_file_may_say_the_same(name):
    system = SIMULATED[name]
    assert ":" in system.policy or system.policy in POLICIES
    assert ":" in system.routing or system.routing in ROUTINGS


def test_no_two_systems_are_the_same():
    assert len({(one.policy, one.routing, one.has_pool) for one in SIMULATED.values()}) == len(SIMULATED)


def test_each_part_is_ours_but_for_one():
    ours, parts = SYSTEMS["ours"], [SIMULATED[name] for name in SIMULATED if name not in SYSTEMS]
    for one in parts:
        kept = one.policy == ours.policy, one.routing == ours.routing, one.has_pool
        assert sum(kept) == 2, one.name
