"""The baselines answer as any policy must, and each in its own way."""

import pytest

from benchmarks import policies
from cluster.operating_points import DEFAULT
from cluster.placement import PlacementInput, named
from cluster.view import Adapter, HostName, HostSpec, HostState, HostView
from lorajax.spec import Version

HOSTS = [HostName(f"host-{number}") for number in range(3)]


def host(name):
    spec = HostSpec(
        name=name, address="127.0.0.1:1", incarnation=1, host_bytes=2**30, num_adapter_pages=64, max_sequences=8
    )
    return HostView(spec=spec, state=HostState.SERVING)


def question(num_adapters=9, min_copies=1):
    adapters = [
        Adapter(version=Version(f"{number:064x}"), rank=8 * (number + 1), num_bytes=1, path="", min_copies=min_copies)
        for number in range(num_adapters)
    ]
    return PlacementInput(
        adapters={one.version: one for one in adapters},
        demand={},
        points=DEFAULT,
        hosts=tuple(map(host, HOSTS)),
        budget_bytes=2**30,
    )


def hosts_of(shares):
    return [[share.host for share in parts] for parts in shares.values()]


@pytest.mark.parametrize("place", [policies.random, policies.contiguous, policies.replicated])
def test_every_adapter_has_its_copies_and_its_shares_sum_to_one(place):
    shares = place(given := question(min_copies=2))
    assert shares.keys() == given.adapters.keys()
    assert all(len({share.host for share in parts}) >= 2 for parts in shares.values())
    assert all(sum(share.share for share in parts) == pytest.approx(1) for parts in shares.values())


def test_contiguous_gives_each_host_neighbouring_ranks():
    assert hosts_of(policies.contiguous(question())) == [[name] for name in HOSTS for _ in range(3)]


def test_random_answers_the_same_again():
    assert policies.random(question()) == policies.random(question())


def test_random_uses_every_host():
    assert {name for (name,) in hosts_of(policies.random(question(60)))} == set(HOSTS)


def test_replicated_puts_everything_everywhere():
    assert hosts_of(policies.replicated(question())) == [HOSTS] * 9


def test_a_cluster_finds_them_by_name():
    assert named("benchmarks.policies:random") is policies.random


@pytest.mark.parametrize("name", ["benchmarks.policies:best", "nowhere:random", ":random"])
def test_a_name_that_leads_nowhere_is_told(name):
    with pytest.raises(ValueError, match=f"^placement.policy is '{name}': .+; name a function that can be imported$"):
        named(name)
