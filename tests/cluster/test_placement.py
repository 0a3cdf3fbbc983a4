"""What every policy promises, on many small questions: whose copies, how many, and the same answer again."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement import POLICIES, PlacementInput, named, unfailing
from cluster.view import HostName, Share, Shares
from lorajax.spec import Level, Version
from tests.cluster.brute_force_placement import adapter, asked, host, version

policies = pytest.mark.parametrize("place", POLICIES.values(), ids=POLICIES.keys())


@st.composite
def questions(draw) -> PlacementInput:
    """Up to 12 adapters and 6 hosts, some copies here and there, and a placement of hosts and adapters partly gone."""
    num_adapters, num_hosts = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    numbers = range(num_adapters)
    adapters = [adapter(i, draw(st.sampled_from([1, 8, 16, 64, 128])), draw(st.integers(1, 3))) for i in numbers]
    demand = [draw(st.one_of(st.just(0.0), st.floats(0.01, 3000.0))) for _ in numbers]
    hosts = [
        host(j, speed=draw(st.sampled_from([0.5, 1.0, 2.0])), holds=draw(st.lists(st.sampled_from(numbers))))
        for j in range(num_hosts)
    ]
    question = asked(adapters, demand, hosts, mixing=draw(st.sampled_from([0.0, 0.3, 1.0])))
    if not draw(st.booleans()):
        return question
    before = POLICIES["ours"](replace(question, hosts=(*hosts, host(97), host(98))))
    kept = draw(st.sets(st.sampled_from(numbers)))
    return replace(
        question,
        previous={version(i): before[version(i)] for i in kept} | {version(99): before[version(0)]},
        budget_bytes=draw(st.sampled_from([0, 5000, 10**9])),
    )


def hosts_of(shares: Shares, name: Version) -> list[HostName]:
    return [part.host for part in shares[name]]


@policies
@settings(max_examples=60, deadline=None)
@given(question=questions())
def test_shares_of_every_adapter_sum_to_one(place, question):
    shares = place(question)
    assert set(shares) == set(question.adapters)
    for parts in shares.values():
        assert sum(part.share for part in parts) == pytest.approx(1, abs=1e-6)
        assert min(part.share for part in parts) >= 0


@policies
@settings(max_examples=60, deadline=None)
@given(question=questions())
def test_copies_are_on_distinct_given_hosts_and_as_many_as_must_be(place, question):
    given_hosts = {view.spec.name for view in question.hosts}
    shares = place(question)
    for name, one in question.adapters.items():
        found = hosts_of(shares, name)
        assert len(set(found)) == len(found) >= min(one.min_copies, len(given_hosts))
        assert set(found) <= given_hosts


@policies
@settings(max_examples=30, deadline=None)
@given(question=questions())
def test_order_of_the_question_changes_nothing(place, question):
    turned = replace(
        question,
        adapters=dict(reversed(question.adapters.items())),
        demand=dict(reversed(question.demand.items())),
        previous=dict(reversed(question.previous.items())),
        hosts=question.hosts[::-1],
    )
    assert place(turned) == place(question)


@policies
def test_no_hosts_no_shares(place):
    assert place(asked([adapter(0, 8)], [1.0], [])) == {}


@policies
def test_no_adapters_no_shares(place):
    assert place(asked([], [], [host(0), host(1)])) == {}


@policies
def test_adapters_without_demand_are_placed_all_the_same(place):
    adapters = [adapter(i, 8) for i in range(6)]
    shares = place(asked(adapters, [0.0] * 6, [host(0), host(1), host(2)]))
    assert sorted(len(parts) for parts in shares.values()) == [1] * 6


def carried_out(question: PlacementInput, shares: Shares) -> PlacementInput:
    """The next round's question: everything is where it was put."""
    copies: Mapping[HostName, dict[Version, Level]] = {view.spec.name: {} for view in question.hosts}
    for name, parts in shares.items():
        for part in parts:
            copies[part.host][name] = Level.HOST
    hosts = tuple(replace(view, copies=copies[view.spec.name]) for view in question.hosts)
    return replace(question, hosts=hosts, previous=shares)


@policies
@pytest.mark.parametrize("mixing", [0.0, 1.0])
def test_lost_host_is_taken_over_by_the_others(place, mixing):
    adapters = [adapter(i, rank) for i, rank in enumerate([8, 16, 64, 128] * 4)]
    question = asked(adapters, [50.0 + i for i in range(16)], [host(j) for j in range(4)], mixing=mixing)
    settled = carried_out(question, place(question))
    after = place(replace(settled, hosts=settled.hosts[1:], budget_bytes=0))
    assert {name for parts in after.values() for name in (part.host for part in parts)} == {
        view.spec.name for view in settled.hosts[1:]
    }


def raises(_given):
    raise KeyError("no such adapter")


@pytest.mark.parametrize(
    "policy",
    [
        raises,
        lambda given: None,
        lambda given: {version(0): ("host-0",)},
        lambda given: {version(0): (Share("host-0", math.nan),)},
        lambda given: {version(0): (Share("host-0", -0.5), Share("host-1", 1.5))},
        lambda given: {version(0): (Share("host-0", 0.5), Share("host-0", 0.5))},
    ],
)
def test_policy_that_fails_leaves_all_as_it_was_and_the_log_says_so(policy, caplog):
    before = {version(0): (Share("host-0", 1.0),)}
    question = replace(asked([adapter(0, 8)], [1.0], [host(0), host(1)]), previous=before)
    assert unfailing(policy)(question) == before
    assert "every adapter stays where it is" in caplog.text


@policies
def test_policy_that_does_not_fail_is_left_alone(place):
    question = asked([adapter(0, 8), adapter(1, 64)], [1.0, 2.0], [host(0), host(1)])
    assert unfailing(place)(question) == place(question)


@pytest.mark.parametrize("text", ["def place(", "raise RuntimeError('no licence')"])
def test_module_that_cannot_be_imported_is_told(text, tmp_path, monkeypatch):
    (tmp_path / "strange_policy.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^placement.policy is 'strange_policy:place': .+; name a function"):
        named("strange_policy:place")
