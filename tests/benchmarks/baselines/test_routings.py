"""Baselines of routing: whom each of them likes best, on hosts that are set up by hand."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.baselines.routings import LEAST_PLANNED, LEAST_REQUESTS, SAMPLED, TOPPINGS
from cluster import routings
from cluster.operating_points import OperatingPoints
from cluster.routing import Ask, Router, RouterConfig
from cluster.view import Adapter, HostLoad, HostName, HostSpec, HostState, HostView, Registration, Share, Table
from lorajax.spec import Level, Version

# A token costs 1 ms of the base and 2 ms of rank 100.
EXACT = OperatingPoints(tokens_per_s={0: 1000.0, 100: 500.0}, mixing=0.0, fetch_bytes_per_s=1e9)
PADDED = replace(EXACT, mixing=1.0)
A, B, C = map(HostName, "abc")
SMALL, LARGE = Version("small"), Version("large")
RANKS = {SMALL: 1, LARGE: 100}


def router(routing, shares, points=EXACT, hosts=(A, B, C), **config):
    made = Router(RouterConfig(**config), points, routing)
    adapters = [Adapter(version=one, rank=rank, num_bytes=1, path="") for one, rank in RANKS.items()]
    specs = [
        HostSpec(name=name, address="", incarnation=1, host_bytes=1, num_adapter_pages=9, max_sequences=8)
        for name in hosts
    ]
    copies = dict.fromkeys(RANKS, Level.DEVICE)
    made.update(
        Table(
            number=1,
            round=1,
            hosts={one.name: HostView(spec=one, state=HostState.SERVING, copies=copies) for one in specs},
            registrations={one.version: Registration(name=one.version, adapter=one) for one in adapters},
            shares={one: tuple(Share(*pair) for pair in shares.items()) for one in RANKS},
        )
    )
    return made


def ask(version=SMALL):
    return Ask(versions=(version,), prompt_tokens=10, max_tokens=10)


def send(made, number, version=SMALL, **options):
    route = made.choose(ask(version), 0.0, **options)
    made.started(f"r{number}", route, ask(version))
    return route.host


def others_of(host):
    return frozenset({A, B, C} - {host})


def test_sampled_follows_the_shares():
    made = router(SAMPLED, {A: 0.7, B: 0.3, C: 0.0})
    found = Counter(made.choose(ask(), 0.0).host for _ in range(2000))
    assert found[A] == pytest.approx(1400, abs=70)
    assert found[B] == pytest.approx(600, abs=70)
    assert not found[C]


def test_sampled_draws_the_same_for_a_seed():
    first, again, other = (router(SAMPLED, {A: 0.5, B: 0.5}, seed=seed) for seed in (1, 1, 2))
    draws = [[made.choose(ask(), 0.0).host for _ in range(50)] for made in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]


def test_sampled_takes_another_host_where_the_planned_one_is_gone():
    made = router(SAMPLED, {A: 1.0})
    assert made.choose(ask(), 0.0, exclude=frozenset({A})).host in {B, C}


def test_least_requests_levels_all_hosts():
    made = router(LEAST_REQUESTS, {A: 1.0})
    assert Counter(send(made, number) for number in range(9)) == {A: 3, B: 3, C: 3}


def test_least_requests_counts_those_of_other_front_doors():
    made = router(LEAST_REQUESTS, {A: 1.0}, hosts=(A, B))
    made.beat(A, HostState.SERVING, HostLoad(num_running=4), None, 0.0)
    assert Counter(send(made, number) for number in range(4)) == {B: 4}


def test_least_planned_stays_within_the_plan():
    made = router(LEAST_PLANNED, {A: 0.5, B: 0.5})
    assert Counter(send(made, number) for number in range(8)) == {A: 4, B: 4}


@pytest.mark.parametrize("points", [EXACT, PADDED])
def test_toppings_takes_the_host_with_fewer_requests(points):
    made = router(TOPPINGS, {}, points)
    assert Counter(send(made, number) for number in range(9)) == {A: 3, B: 3, C: 3}


def test_toppings_keeps_a_large_rank_from_hosts_of_small_ones_where_it_would_slow_them():
    # a decodes one large, b two small ones. Padded, a large one beside two small ones makes these slower too.
    chosen = {}
    for points in (EXACT, PADDED):
        made = router(TOPPINGS, {}, points)
        send(made, 0, LARGE, exclude=others_of(A))
        for number in (1, 2):
            send(made, number, SMALL, exclude=others_of(B))
        for number in range(3):
            made.first_token(f"r{number}", 0.0)
        chosen[points.mixing] = made.choose(ask(LARGE), 0.0, exclude=frozenset({C})).host
    assert chosen[1.0] == A


@pytest.mark.parametrize(("tbt_p95_s", "best"), [(0.004, B), (0.005, A)])
def test_toppings_avoids_a_host_that_would_miss_the_target(tbt_p95_s, best):
    # Three requests decode on a: a step with four takes a little over 4 ms. b has a queue of prompts, but is in time.
    made = router(TOPPINGS, {}, tbt_p95_s=tbt_p95_s, hosts=(A, B))
    for number in range(3):
        send(made, number, exclude=frozenset({B}))
        made.first_token(f"r{number}", 0.0)
    made.beat(B, HostState.SERVING, HostLoad(num_waiting=1, waiting_tokens=1000), None, 0.0)
    assert made.choose(ask(), 0.0).host == best


def test_a_cluster_finds_them_by_name():
    assert routings.named("benchmarks.baselines.routings:SAMPLED") is SAMPLED


@pytest.mark.parametrize("name", ["benchmarks.baselines.routings:BEST", "nowhere:SAMPLED", "math:pi"])
def test_a_name_that_is_no_routing_is_told(name):
    with pytest.raises(ValueError, match=f"^placement.routing is '{name}'.+; name .+ that can be imported$"):
        routings.named(name)
