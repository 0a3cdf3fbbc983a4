"""Deadlines that no host can meet, and hosts that come, fail, drain and leave."""

import contextlib
from dataclasses import replace

import pytest

from cluster.view import HostState
from lorajax.errors import DeadlineExceeded, Overloaded, Unavailable
from tests.cluster.routing_rig import ASK, BASE, beat, host, router, send, serve_as_predicted, table


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


def test_host_that_is_to_drain_is_left_though_it_has_not_heard_of_it():
    made = router(host("a", "v", state=HostState.DRAINING), host("b", "v"), shares={"v": {"a": 1.0}})
    beat(made, "a", state=HostState.SERVING)
    assert made.choose(ASK, 0.0).host == "b"
    made.update(table(host("a", "v"), host("b"), shares={"v": {"a": 1.0}}))  # it could not be told
    assert made.choose(ASK, 0.0).host == "a"


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


def test_a_host_with_nothing_to_do_is_asked_even_where_it_was_slow_before():
    made = router(host("a", "v"))
    for number in range(20):
        send(made, str(number))
        made.first_token(str(number), now_s=60.0)
        made.ended(str(number), now_s=60.0)
    hurried = replace(ASK, deadline_s=102.0)
    assert send(made, "first", hurried, now_s=100.0) == "a"
    with pytest.raises(Overloaded):
        made.choose(hurried, 100.0)
