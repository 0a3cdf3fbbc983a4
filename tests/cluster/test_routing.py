import contextlib
from collections import Counter
from dataclasses import replace

import pytest

from cluster.operating_points import OperatingPoints
from cluster.routing import OURS, Ask, Router, RouterConfig
from cluster.routing_input import Routing
from cluster.view import Adapter, HostLoad, HostState, HostView, Registration, Share, Table
from lorajax.errors import DeadlineExceeded, Overloaded, Unavailable
from lorajax.spec import Level
from tests.cluster.fake_hosts import host_spec

# A token costs 1 ms of the base and 2 ms of rank 100; an adapter of 1000 bytes is fetched in a second.
POINTS = OperatingPoints(tokens_per_s={0: 1000.0, 100: 500.0}, mixing=0.0, fetch_bytes_per_s=1000.0)
ASK = Ask(versions=("v",), prompt_tokens=10, max_tokens=10)
BASE = replace(ASK, versions=())


def host(name, *copies, state=HostState.SERVING, level=Level.DEVICE, **changes):
    return HostView(spec=host_spec(name, **changes), state=state, copies=dict.fromkeys(copies, level))


def table(*hosts, shares=None, ranks=None, num_bytes=100):
    ranks = ranks or {"v": 100}
    found = {
        version: Registration(
            name=f"name of {version}",
            adapter=Adapter(version=version, rank=rank, num_bytes=num_bytes, path=f"/{version}"),
        )
        for version, rank in ranks.items()
    }
    return Table(
        number=1,
        round=1,
        hosts={one.spec.name: one for one in hosts},
        registrations={one.name: one for one in found.values()},
        shares={
            version: tuple(Share(name, share) for name, share in some.items())
            for version, some in (shares or {}).items()
        },
    )


def router(*hosts, points=POINTS, config=None, routing=OURS, **changes):
    made = Router(config or RouterConfig(), points, routing)
    made.update(table(*hosts, **changes))
    return made


def beat(made, name, now_s=0.0, state=HostState.SERVING, copies=None, **load):
    made.beat(name, state, HostLoad(**load), copies, now_s)


def send(made, request_id, ask=ASK, now_s=0.0, **options):
    route = made.choose(ask, now_s, **options)
    made.started(request_id, route, ask)
    return route.host


def serve_as_predicted(made, factor=1.0):
    """Enough requests for the pace to be known: each first token comes after `factor` times what was predicted."""
    for number in range(20):
        route = made.choose(ASK, 0.0)
        made.started(f"warm{number}", route, ASK)
        made.first_token(f"warm{number}", factor * route.first_token_s)
        made.ended(f"warm{number}", factor * route.first_token_s)


def test_request_goes_where_the_plan_says():
    made = router(host("a", "v"), host("b", "v"), host("c", "v"), shares={"v": {"b": 1.0}})
    assert made.choose(ASK, 0.0).host == "b"


def test_route_names_the_address_of_its_host():
    made = router(host("a", "v"))
    assert made.choose(ASK, 0.0).address == "a:1"


def test_hosts_that_are_alike_are_sent_their_shares():
    shares = {"v": {"a": 0.5, "b": 0.3, "c": 0.2}}
    made = router(*(host(name, "v") for name in "abc"), shares=shares)
    counts = Counter()
    for number in range(1000):
        counts[send(made, "r")] += 1
        made.ended("r", float(number))
    assert {name: counts[name] / 1000 for name in "abc"} == {
        name: pytest.approx(share, abs=0.01) for name, share in shares["v"].items()
    }


def test_shares_are_kept_under_load_that_all_hosts_can_bear():
    shares = {"v": {"a": 0.75, "b": 0.25}}
    made = router(host("a", "v"), host("b", "v"), shares=shares)
    counts = Counter()
    for number in range(400):
        counts[send(made, f"r{number}", now_s=number / 50)] += 1
        made.ended(f"r{number - 3}", number / 50)
    assert counts["a"] / 400 == pytest.approx(0.75, abs=0.05)


def test_long_queue_outweighs_the_plan_within_the_plan():
    made = router(host("a", "v"), host("b", "v"), shares={"v": {"a": 0.9, "b": 0.1}})
    beat(made, "a", waiting_tokens=5000)
    assert [send(made, f"r{number}") for number in range(3)] == ["b", "b", "b"]


def test_request_spills_to_a_host_outside_the_plan_that_is_much_sooner():
    made = router(host("a", "v"), host("b", "v"), shares={"v": {"a": 1.0}})
    beat(made, "a", waiting_tokens=5000)
    assert made.choose(ASK, 0.0).host == "b"


def test_request_does_not_spill_for_a_little():
    made = router(host("a", "v"), host("b", "v"), shares={"v": {"a": 1.0}})
    beat(made, "a", waiting_tokens=50)
    assert made.choose(ASK, 0.0).host == "a"


@pytest.mark.parametrize(("ttft_p95_s", "host_name"), [(0.5, "b"), (5.0, "a")])
def test_plan_costs_a_request_a_tenth_of_the_latency_target_at_most(ttft_p95_s, host_name):
    config = RouterConfig(ttft_p95_s=ttft_p95_s)
    made = router(host("a", "v"), host("b", "v"), config=config, shares={"v": {"a": 1.0}})
    beat(made, "a", waiting_tokens=100)
    assert made.choose(ASK, 0.0).host == host_name


@pytest.mark.parametrize(("copies", "host_name"), [(("v",), "b"), ((), "a")])
def test_new_copy_must_save_more_than_one_that_is_there(copies, host_name):
    made = router(host("a", "v"), host("b", *copies), shares={"v": {"a": 1.0}}, num_bytes=1)
    beat(made, "a", waiting_tokens=150)
    assert made.choose(ASK, 0.0).host == host_name


def test_spill_counts_the_fetch():
    made = router(host("a", "v"), host("b"), shares={"v": {"a": 1.0}}, num_bytes=60_000)
    beat(made, "a", waiting_tokens=5000)
    assert made.choose(ASK, 0.0).host == "a"


def test_host_with_the_adapter_on_its_device_is_preferred_where_nothing_else_differs():
    made = router(host("a", "v", level=Level.HOST), host("b", "v"), shares={"v": {"a": 0.5, "b": 0.5}})
    assert made.choose(ASK, 0.0).host == "b"


def test_stickiness_does_not_pay_beyond_what_loading_costs():
    made = router(host("a", "v", level=Level.HOST), host("b", "v"), shares={"v": {"a": 0.5, "b": 0.5}})
    beat(made, "b", waiting_tokens=1000)
    assert made.choose(ASK, 0.0).host == "a"


def test_missing_adapter_is_fetched_from_those_that_hold_it():
    made = router(host("a"), host("b", "v", state=HostState.DRAINING), host("c", "v", state=HostState.LOST))
    (fetch,) = made.choose(ASK, 0.0).fetches
    assert (fetch.adapter.version, fetch.peers) == ("v", ("b",))


def test_adapter_in_memory_is_not_fetched():
    assert router(host("a", "v", level=Level.HOST)).choose(ASK, 0.0).fetches == ()


def test_predicted_wait_is_queue_and_prompt():
    made = router(host("a", "v"))
    beat(made, "a", waiting_tokens=500)
    assert made.choose(ASK, 0.0).first_token_s == pytest.approx(510 * 0.002)


def test_own_requests_count_before_the_next_beat():
    made = router(host("a", "v"), host("b", "v"))
    assert {send(made, f"r{number}", BASE) for number in range(2)} == {"a", "b"}


def test_beat_does_not_count_own_requests_twice():
    made = router(host("a"))
    send(made, "r", replace(BASE, prompt_tokens=500))
    before_s = made.choose(BASE, 0.0).first_token_s
    beat(made, "a", num_waiting=1, waiting_tokens=500)
    assert made.choose(BASE, 0.0).first_token_s == pytest.approx(before_s)


def test_prompt_that_was_read_no_longer_delays():
    made = router(host("a"))
    send(made, "r", replace(BASE, prompt_tokens=500))
    made.first_token("r", 1.0)
    assert made.choose(BASE, 1.0).first_token_s < 0.1


def test_request_that_ended_leaves_nothing_behind():
    made = router(host("a"))
    before_s = made.choose(BASE, 0.0).first_token_s
    send(made, "r")
    made.ended("r", 1.0)
    assert made.choose(BASE, 1.0).first_token_s == before_s


def test_old_beat_is_not_believed_for_ever():
    made = router(host("a"))
    beat(made, "a", waiting_tokens=100_000)
    assert made.choose(replace(BASE, deadline_s=20.0), 10.0).host == "a"


def test_faster_host_is_sent_more():
    made = router(host("a", speed=3.0), host("b"))
    counts = Counter(send(made, f"r{number}", BASE) for number in range(12))
    assert counts["a"] > 2 * counts["b"]


def test_full_batch_makes_a_request_wait():
    made = router(host("a", max_sequences=2))
    waits_s = []
    for number in range(4):
        waits_s.append(made.choose(BASE, 0.0).first_token_s)
        send(made, f"r{number}", BASE)
        made.first_token(f"r{number}", 0.0)
    assert waits_s[3] > waits_s[2] > waits_s[1]


def test_host_without_room_for_another_sequence_is_later():
    made = router(host("a"), host("b"))
    beat(made, "a", num_running=2, kv_pages_free=1, kv_pages_total=100)
    beat(made, "b", num_running=2, kv_pages_free=60, kv_pages_total=100)
    assert made.choose(BASE, 0.0).host == "b"


def test_padded_ranks_keep_small_requests_off_hosts_with_large_ones():
    points = replace(POINTS, mixing=1.0)
    made = router(host("a", "v"), host("b", "v"), points=points, ranks={"v": 100, "small": 1})
    large_on = send(made, "large")
    made.first_token("large", 0.0)
    assert made.choose(replace(BASE, max_tokens=100), 0.0).host != large_on


@pytest.mark.parametrize(("mixing", "host_name"), [(1.0, "a"), (0.0, "b")])
def test_large_rank_stays_off_a_host_where_it_would_slow_many_small_ones(mixing, host_name):
    points = replace(POINTS, mixing=mixing)
    shares = {"v": {"a": 0.5, "b": 0.5}, "small": {"b": 1.0}}
    ranks = {"v": 100, "small": 1}
    made = router(host("a", "v"), host("b", "v", "small"), points=points, shares=shares, ranks=ranks)
    send(made, "large")
    beat(made, "a", waiting_tokens=200)
    for number in range(10):
        send(made, f"small{number}", replace(ASK, versions=("small",)))
        made.first_token(f"small{number}", 0.0)
    assert made.choose(ASK, 0.0).host == host_name


def test_request_with_several_adapters_goes_by_the_largest():
    made = router(
        host("a", "v", "w"),
        host("b", "v", "w"),
        shares={"v": {"a": 1.0}, "w": {"b": 1.0}},
        ranks={"v": 8, "w": 100},
    )
    assert made.choose(replace(ASK, versions=("v", "w")), 0.0).host == "b"


def test_deadline_that_no_host_can_meet_is_refused_with_the_wait():
    made = router(host("a", "v"))
    serve_as_predicted(made)
    beat(made, "a", waiting_tokens=5000)
    with pytest.raises(Overloaded, match=r"would take 10 s and the deadline is in 1 s") as caught:
        made.choose(replace(ASK, deadline_s=1.0), 0.0)
    assert caught.value.retry_s == pytest.approx(9, abs=0.1)


def test_host_that_meets_the_deadline_is_taken_whatever_the_plan():
    made = router(host("a", "v"), host("b", "v"), shares={"v": {"a": 1.0}})
    serve_as_predicted(made)
    beat(made, "a", waiting_tokens=150)
    assert made.choose(replace(ASK, deadline_s=0.2), 0.0).host == "b"


@pytest.mark.parametrize(("factor", "is_refused"), [(0.01, False), (3.0, True)])
def test_deadline_is_judged_by_how_fast_these_hosts_are_not_those_that_were_profiled(factor, is_refused):
    made = router(host("a", "v"))
    serve_as_predicted(made, factor)
    beat(made, "a", waiting_tokens=2500)
    ask = replace(ASK, deadline_s=7.0 if is_refused else 1.0)
    with pytest.raises(Overloaded) if is_refused else contextlib.nullcontext():
        made.choose(ask, 0.0)


def test_nobody_is_refused_by_points_that_nothing_has_confirmed():
    made = router(host("a", "v"))
    beat(made, "a", waiting_tokens=5000)
    assert made.choose(replace(ASK, deadline_s=1.0), 0.0).host == "a"


def test_deadline_that_has_passed_is_told_as_such():
    with pytest.raises(DeadlineExceeded):
        router(host("a", "v")).choose(replace(ASK, deadline_s=1.0), 2.0)


@pytest.mark.parametrize("state", [HostState.STARTING, HostState.DRAINING, HostState.LOST])
def test_only_serving_hosts_are_sent_requests(state):
    with pytest.raises(Unavailable, match="no host can take it"):
        router(host("a", "v", state=state)).choose(ASK, 0.0)


def test_host_that_was_tried_is_not_tried_again():
    made = router(host("a", "v"), host("b", "v"), shares={"v": {"a": 1.0}})
    assert made.choose(ASK, 0.0, exclude=frozenset({"a"})).host == "b"


def test_host_that_failed_is_avoided_for_a_while():
    made = router(host("a", "v"), host("b", "v"), shares={"v": {"a": 1.0}})
    made.failed("a", 0.0)
    assert [made.choose(ASK, now_s).host for now_s in (0.1, 5.0)] == ["b", "a"]


def test_last_host_is_tried_though_it_failed():
    made = router(host("a", "v"))
    made.failed("a", 0.0)
    assert made.choose(ASK, 0.1).host == "a"


def test_host_that_drains_by_itself_is_left_at_once():
    made = router(host("a", "v"), host("b", "v"), shares={"v": {"a": 1.0}})
    beat(made, "a", state=HostState.DRAINING)
    assert made.choose(ASK, 0.0).host == "b"


def test_new_table_keeps_what_beats_have_said():
    made = router(host("a"), host("b"))
    beat(made, "a", waiting_tokens=5000)
    made.update(table(host("a"), host("b"), host("c")))
    assert made.choose(BASE, 0.0).host == "b"


def test_new_life_of_a_host_starts_without_the_old_ones_requests():
    made = router(host("a"))
    send(made, "r", replace(BASE, prompt_tokens=5000))
    made.update(table(host("a", incarnation=2)))
    made.ended("r", 0.0)
    assert made.choose(BASE, 0.0).first_token_s == pytest.approx(0.01)


def test_version_that_the_table_has_lost_meanwhile_is_still_routed():
    assert router(host("a")).choose(replace(ASK, versions=("gone",)), 0.0).host == "a"


def test_adapter_on_many_hosts_reaches_all_of_them():
    names = [f"h{number:02}" for number in range(40)]
    made = router(*(host(name, "v") for name in names), shares={"v": dict.fromkeys(names, 1 / 40)})
    assert {send(made, f"r{number}") for number in range(40)} == set(names)


def judging(score, **limits):
    """A routing, and the hosts that it was asked to judge, in that order."""
    seen = []

    def judged(ask, candidate, view):
        seen.append(candidate.name)
        return score(ask, candidate, view)

    return Routing(score=judged, **limits), seen


def test_another_routing_judges_every_host_and_the_lowest_score_is_taken():
    routing, seen = judging(lambda _ask, candidate, _view: -ord(candidate.name))
    made = router(*map(host, "abcdefgh"), routing=routing, shares={"v": {"a": 1.0}})
    assert made.choose(ASK, 0.0).host == "h"
    assert sorted(seen) == list("abcdefgh")


def test_a_routing_may_judge_hosts_of_the_plan_alone():
    routing, seen = judging(lambda *_: 0.0, num_spill=0)
    made = router(*map(host, "abcd"), routing=routing, shares={"v": {"d": 0.5, "c": 0.5}})
    assert made.choose(ASK, 0.0).host == "c"
    assert sorted(seen) == ["c", "d"]


def test_a_routing_sees_the_plan_of_the_largest_adapter():
    plans = []
    routing = Routing(score=lambda _ask, _candidate, view: plans.append(view.shares) or 0.0)
    made = router(host("a"), routing=routing, ranks={"v": 8, "w": 16}, shares={"v": {"a": 1.0}, "w": {"b": 1.0}})
    made.choose(replace(ASK, versions=("v", "w")), 0.0)
    made.choose(BASE, 0.0)
    assert plans == [(Share("b", 1.0),), ()]


def test_a_host_that_would_be_late_is_taken_by_no_routing():
    routing, _ = judging(lambda _ask, candidate, _view: ord(candidate.name))
    made = router(host("a"), host("b"), routing=routing)
    serve_as_predicted(made)
    made.beat("a", HostState.SERVING, HostLoad(num_waiting=1, waiting_tokens=9000), None, 0.0)
    assert made.choose(replace(BASE, deadline_s=1.0), 0.0).host == "b"
