"""Which of the server's adapters stand for a workload's."""

import pytest

from benchmarks.drive.names import Stand, by_name, by_rank
from benchmarks.drive.records import Offer
from benchmarks.workloads.records import Arrival, Workload


def asking(**counts):
    """A workload with so many requests of each adapter; a has rank 8, all others have rank 64."""
    arrivals = tuple(Arrival(0.0, 1, 1, name) for name, count in counts.items() for _ in range(count))
    return Workload(name="w", arrivals=arrivals, ranks={"a": 8, "b": 64, "c": 64, "d": 64})


def offer(**ranks):
    return Offer(name="here:1", ranks=ranks)


def test_adapters_that_nobody_asks_for_need_not_exist():
    assert by_name(asking(a=1), offer(a=8)) == {"a": Stand("a", 8)}


def test_a_missing_adapter_is_told_with_both_ways_out():
    with pytest.raises(ValueError, match=r"here:1 has no adapter 'b' and 1 others.*--make-adapters.*--adapters-from-s"):
        by_name(asking(a=1, b=3, c=2), offer(a=8))


def test_an_adapter_of_another_rank_is_refused():
    with pytest.raises(ValueError, match="'a' with rank 16, the workload with rank 8"):
        by_name(asking(a=1), offer(a=16))


def test_a_server_that_tells_no_ranks_is_believed():
    assert by_name(asking(b=1), offer(b=None)) == {"b": Stand("b", 64)}


def test_by_rank_deals_out_the_adapters_of_a_rank_the_most_wanted_first():
    found = by_rank(asking(b=1, c=3, d=2, a=9), offer(x=64, y=8, z=64))
    assert {name: stand.name for name, stand in found.items()} == {"a": "y", "c": "x", "d": "z", "b": "x"}


def test_by_rank_uses_all_adapters_where_ranks_are_not_told():
    found = by_rank(asking(a=2, b=1), offer(x=None, y=None))
    assert found == {"a": Stand("x", 8), "b": Stand("y", 64)}


def test_a_rank_that_the_server_lacks_is_told():
    with pytest.raises(ValueError, match="no adapter of rank 64, which 'b' needs"):
        by_rank(asking(b=1), offer(x=8))
