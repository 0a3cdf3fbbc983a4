"""Every system names a placement and a routing that there are."""

import pytest

from benchmarks.baselines.systems import SYSTEMS
from cluster.cluster_config import POLICIES, ROUTINGS
from tests.benchmarks.baselines.questions import question


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_places_everything_and_routes(name):
    system = SYSTEMS[name]
    assert len(system.place(question(tokens=[1.0] * 9))) == 9
    assert callable(system.route.score)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_cluster_file_may_say_the_same(name):
    system = SYSTEMS[name]
    assert ":" in system.policy or system.policy in POLICIES
    assert ":" in system.routing or system.routing in ROUTINGS


def test_no_two_systems_are_the_same():
    assert len({(one.policy, one.routing) for one in SYSTEMS.values()}) == len(SYSTEMS)
