"""The baselines answer as any policy must, and each in its own way."""

import pytest

from benchmarks.baselines import dlora, placements
from benchmarks.baselines.systems import SYSTEMS
from cluster.placement import named
from tests.benchmarks.baselines.questions import HOSTS, hosts_of, loads, question, version

SKEWED = [100.0, 50.0, 25.0, 12.0, 6.0, 3.0, 2.0, 1.0, 1.0]
everyone = pytest.mark.parametrize(
    "place", [placements.random, placements.contiguous, placements.replicated, placements.rendezvous, dlora.place]
)


@everyone
def test_every_adapter_has_its_copies_and_its_shares_sum_to_one(place):
    shares = place(given := question(min_copies=2, tokens=SKEWED))
    assert shares.keys() == given.adapters.keys()
    assert all(len({share.host for share in parts}) >= 2 for parts in shares.values())
    assert all(sum(share.share for share in parts) == pytest.approx(1) for parts in shares.values())


@everyone
def test_the_same_question_has_the_same_answer(place):
    first = place(question(60, tokens=SKEWED))
    assert place(question(60, tokens=SKEWED)) == first
    again = place(question(60, tokens=SKEWED[::-1], previous=first))
    assert place(question(60, tokens=SKEWED[::-1], previous=first)) == again


@everyone
def test_adapters_without_demand_are_placed(place):
    assert len(place(question())) == 9


def test_contiguous_gives_each_host_neighbouring_ranks():
    assert hosts_of(placements.contiguous(question())) == [[name] for name in HOSTS for _ in range(3)]


def test_random_uses_every_host():
    assert {name for (name,) in hosts_of(placements.random(question(60)))} == set(HOSTS)


def test_replicated_puts_everything_everywhere():
    assert hosts_of(placements.replicated(question())) == [HOSTS] * 9


def test_rendezvous_gives_a_hot_adapter_more_copies():
    # 90 tokens/s on 3 hosts: a copy is to carry at most half of 30.
    copies = [len(parts) for parts in placements.rendezvous(question(4, tokens=[45.0, 30.0, 15.0, 0.0])).values()]
    assert copies == [3, 2, 1, 1]


def test_rendezvous_uses_every_host():
    found = [name for names in hosts_of(placements.rendezvous(question(60))) for name in names]
    assert min(map(found.count, HOSTS)) >= 10


def test_rendezvous_moves_only_what_a_lost_host_had():
    before = placements.rendezvous(question(60))
    after = placements.rendezvous(question(60, hosts=HOSTS[:2]))
    assert all(after[one] == parts for one, parts in before.items() if parts[0].host != HOSTS[2])


def test_dlora_gives_adapters_copies_by_popularity():
    # Seven in the mean: 7, 2 and 1 times as much.
    shares = dlora.place(question(9, tokens=[63.0 - 18 - 6.0, 18.0, *[1.0] * 6, 0.0]))
    assert [len(parts) for parts in shares.values()] == [3, 2, *[1] * 7]


def test_dlora_levels_hosts_when_demand_has_changed():
    before = dlora.place(question(12, tokens=[10.0] * 12))
    on_first = [one for one, parts in before.items() if parts[0].host == HOSTS[0]]
    given = question(12, tokens=[40.0 if version(n) in on_first else 5.0 for n in range(12)], previous=before)
    stays, levelled = loads(given, before), loads(given, dlora.place(given))
    assert max(stays.values()) == pytest.approx(160)
    assert max(levelled.values()) <= 1.25 * sum(levelled.values()) / 3


def test_dlora_leaves_what_is_level():
    before = dlora.place(given := question(12, tokens=[10.0] * 12))
    assert dlora.place(question(12, tokens=[10.0] * 12, previous=before)) == before
    assert list(loads(given, before).values()) == pytest.approx([40] * 3)


def test_a_cluster_finds_them_by_name():
    assert named("benchmarks.baselines.placements:random") is placements.random


@pytest.mark.parametrize("name", ["json:loads", "builtins:repr"])
def test_a_function_that_is_no_policy_is_told(name):
    with pytest.raises(ValueError, match=f"^placement.policy is '{name}', which does not give {{}} for"):
        named(name)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
def test_all_of_them_are_policies(system):
    assert callable(system.place)


@pytest.mark.parametrize("name", ["benchmarks.baselines.placements:best", "nowhere:random", ":random"])
def test_a_name_that_leads_nowhere_is_told(name):
    with pytest.raises(ValueError, match=f"^placement.policy is '{name}': .+; name a function that can be imported$"):
        named(name)
