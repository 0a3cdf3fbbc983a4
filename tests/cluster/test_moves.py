from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import moves
from cluster.view import Adapter, HostState, HostView, Share
from lorajax.spec import Level
from tests.cluster.fake_hosts import host_spec


def host(name, *copies, host_bytes=1000):
    return HostView(
        spec=host_spec(name, host_bytes=host_bytes), state=HostState.SERVING, copies=dict.fromkeys(copies, Level.HOST)
    )


def adapters(*versions, num_bytes=100, min_copies=1):
    return {
        version: Adapter(version=version, rank=8, num_bytes=num_bytes, path=f"/{version}", min_copies=min_copies)
        for version in versions
    }


def shares(**parts):
    return {version: tuple(Share(host, part) for host, part in hosts.items()) for version, hosts in parts.items()}


def plan(known, hosts, wanted, **changes):
    values = {"coming": {}, "heat": {}, "budget_bytes": 10**9} | changes
    holders = {version: [view.spec.name for view in hosts if view.holds(version)] for version in known}
    return moves.Plan(adapters=known, shares=wanted, hosts=hosts, holders=holders, **values)


def ordered(plan):
    return [(copy.adapter.version, copy.host, copy.is_due) for copy in moves.copies(plan)]


def test_share_without_copy_is_wanted():
    given = plan(adapters("v"), [host("a", "v"), host("b")], shares(v={"a": 0.5, "b": 0.5}))
    assert ordered(given) == [("v", "b", False)]


def test_adapter_without_any_copy_is_due_on_its_largest_share():
    given = plan(adapters("v"), [host("a"), host("b")], shares(v={"a": 0.3, "b": 0.7}))
    assert ordered(given) == [("v", "b", True), ("v", "a", False)]


def test_what_is_due_comes_before_what_is_hot():
    hosts = [host("a", "hot"), host("b")]
    given = plan(adapters("hot", "lost"), hosts, shares(hot={"a": 0.5, "b": 0.5}, lost={"a": 1}), heat={"hot": 9.0})
    assert ordered(given) == [("lost", "a", True), ("hot", "b", False)]


def test_hottest_is_fetched_first():
    hosts = [host("a", "u", "v", "w"), host("b")]
    both = {"a": 0.5, "b": 0.5}
    given = plan(adapters("u", "v", "w"), hosts, shares(u=both, v=both, w=both), heat={"u": 1.0, "v": 3.0, "w": 2.0})
    assert [version for version, _, _ in ordered(given)] == ["v", "w", "u"]


def test_bytes_beyond_the_budget_wait():
    hosts = [host("a", "u", "v"), host("b")]
    both = {"a": 0.5, "b": 0.5}
    given = plan(adapters("u", "v"), hosts, shares(u=both, v=both), heat={"v": 1.0}, budget_bytes=150)
    assert ordered(given) == [("v", "b", False)]


def test_what_must_exist_is_fetched_whatever_the_budget():
    given = plan(adapters("v"), [host("a")], shares(v={"a": 1}), budget_bytes=0)
    assert ordered(given) == [("v", "a", True)]


def test_copy_that_does_not_fit_the_memory_waits():
    hosts = [host("a", "u", "v"), host("b", "u", host_bytes=150)]
    given = plan(adapters("u", "v"), hosts, shares(u={"a": 1}, v={"a": 0.5, "b": 0.5}))
    assert ordered(given) == []


def test_copies_beyond_the_shares_go_where_most_room_is():
    hosts = [host("a", "v"), host("b", "u"), host("c")]
    given = plan(adapters("v", min_copies=2) | adapters("u"), hosts, shares(u={"b": 1}, v={"a": 1}))
    assert ordered(given) == [("v", "c", True)]


def test_copy_on_its_way_is_not_ordered_again():
    given = plan(adapters("v"), [host("a"), host("b")], shares(v={"a": 1}), coming={"v": ("a",)})
    assert ordered(given) == []


def test_spare_copy_is_wanted_though_it_has_no_traffic():
    given = plan(adapters("v"), [host("a", "v"), host("b")], shares(v={"a": 1.0, "b": 0.0}))
    assert ordered(given) == [("v", "b", False)]


def test_idle_copy_goes_if_another_stays():
    given = plan(adapters("v"), [host("a", "v"), host("b", "v")], shares(v={"a": 1}))
    assert moves.drops(given, [("b", "v")]) == (("b", "v"),)


def test_last_copy_stays():
    given = plan(adapters("v"), [host("a"), host("b", "v")], shares(v={"a": 1}))
    assert moves.drops(given, [("b", "v")]) == ()


def test_drops_of_one_round_count_each_other():
    given = plan(adapters("v"), [host("a", "v"), host("b", "v"), host("c")], shares(v={"c": 1}))
    assert moves.drops(given, [("a", "v"), ("b", "v")]) == (("a", "v"),)


@pytest.mark.parametrize(("min_copies", "wanted"), [(2, {"a": 1}), (1, {"c": 0.5, "d": 0.5})])
def test_two_copies_stay_of_what_must_have_two_or_is_hot(min_copies, wanted):
    hosts = [host("a", "v"), host("b", "v"), host("c"), host("d")]
    given = plan(adapters("v", min_copies=min_copies), hosts, shares(v=wanted))
    assert moves.drops(given, [("b", "v")]) == ()


def test_shares_of_lost_hosts_go_to_the_others_in_proportion():
    found = moves.repaired(shares(v={"a": 0.5, "b": 0.3, "c": 0.2}), adapters("v"), [host("b"), host("c")])
    assert [(share.host, pytest.approx(share.share)) for share in found["v"]] == [("b", 0.6), ("c", 0.4)]


def test_spare_takes_over_when_all_shares_are_lost():
    found = moves.repaired(shares(v={"a": 1.0, "b": 0.0}), adapters("v"), [host("b"), host("c", "v")])
    assert found == shares(v={"b": 1.0})


def test_homeless_adapter_goes_to_its_holders():
    found = moves.repaired({}, adapters("v"), [host("a"), host("b", "v"), host("c", "v")])
    assert found == shares(v={"b": 0.5, "c": 0.5})


def test_homeless_adapters_without_holders_spread_over_the_emptiest_hosts():
    found = moves.repaired({}, adapters("u", "v", "w"), [host("a", "w"), host("b"), host("c")])
    assert found == shares(u={"b": 1.0}, v={"c": 1.0}, w={"a": 1.0})


def test_no_host_no_shares():
    assert moves.repaired(shares(v={"a": 1.0}), adapters("v"), []) == {}


PART = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from((0.0, 0.1, 1.0, 7.0)), max_size=6)


@given(st.dictionaries(st.sampled_from(("u", "v", "w", "x")), PART), st.sets(st.sampled_from("abcdef"), min_size=1))
def test_repaired_shares_sum_to_one_over_the_hosts_that_are_left(parts, names):
    known = adapters("u", "v", "w")
    found = moves.repaired(shares(**parts), known, [host(name) for name in sorted(names)])
    assert found.keys() == known.keys()
    for some in found.values():
        assert sum(share.share for share in some) == pytest.approx(1)
        assert {share.host for share in some} <= names


def test_copy_in_the_store_alone_is_no_copy():
    stored = replace(host("a"), copies={"v": Level.STORE})
    assert ordered(plan(adapters("v"), [stored], shares(v={"a": 1}))) == [("v", "a", True)]
