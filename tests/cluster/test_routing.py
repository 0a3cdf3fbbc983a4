"""Which host a request is sent to: the plan, the queues, the ranks in the batch and the copies."""

from collections import Counter
from dataclasses import replace

import pytest

from cluster.routing import RouterConfig
from cluster.view import HostState
from lorajax.spec import Level
from tests.cluster.routing_rig import ASK, BASE, POINTS, beat, host, router, send


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
    beat(made, "a", waiting_tokens=40)
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


def test_adapter_on_many_hosts_reaches_all_of_them():
    names = [f"h{number:02}" for number in range(40)]
    made = router(*(host(name, "v") for name in names), shares={"v": dict.fromkeys(names, 1 / 40)})
    assert {send(made, f"r{number}") for number in range(40)} == set(names)


def test_adapter_that_was_fetched_is_known_before_its_host_tells():
    made = router(host("a"), host("b", "v"), shares={"v": {"a": 1.0}}, num_bytes=1)
    assert [fetch.adapter.version for fetch in made.choose(ASK, 0.0).fetches] == ["v"]
    assert (send(made, "r"), made.holds("a", "v")) == ("a", False)
    made.first_token("r", 0.1)
    assert made.holds("a", "v")
    assert made.choose(ASK, 0.1).fetches == ()
