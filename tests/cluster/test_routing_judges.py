"""Another routing judges the hosts, within what the router lets it judge."""

from dataclasses import replace

from cluster.routing_input import Routing
from cluster.view import HostLoad, HostState, Share
from tests.cluster.routing_rig import ASK, BASE, host, router, serve_as_predicted


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
