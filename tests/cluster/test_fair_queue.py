from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fair_queue import FairQueue
from lorajax.errors import Overloaded


def filled(*puts, **options):
    queue = FairQueue(**options)
    for tenant, key, cost in puts:
        queue.put(tenant, key, cost)
    return queue


def taken(queue):
    return [queue.take() for _ in range(len(queue))]


def test_one_tenant_is_served_in_order():
    assert taken(filled(("a", "1", 900), ("a", "2", 50), ("a", "3", 4000))) == ["1", "2", "3"]


def test_flood_of_one_tenant_does_not_delay_another():
    queue = filled(*(("flood", f"f{number}", 1000) for number in range(1000)), ("calm", "c", 1000))
    assert "c" in [queue.take() for _ in range(3)]


def test_tenants_that_wait_are_served_equal_cost():
    random = Random(0)
    sizes = {"small": 100, "large": 3000}
    queue = FairQueue()
    for tenant, size in sizes.items():
        for number in range(2000):
            queue.put(tenant, f"{tenant}{number}", random.uniform(0.5, 1.5) * size)
    served = {tenant: 0 for tenant in sizes}
    while min(served.values()) < 50_000:
        tenant = queue.take().rstrip("0123456789")
        served[tenant] += sizes[tenant]
    assert served["small"] == pytest.approx(served["large"], rel=0.25)


def test_expensive_request_is_served_without_thousands_of_turns():
    assert taken(filled(("a", "dear", 1e9), ("b", "cheap", 1))) == ["cheap", "dear"]


def test_nothing_is_taken_where_nothing_waits():
    assert FairQueue().take() is None


def test_removed_request_is_not_served():
    queue = filled(("a", "1", 1), ("a", "2", 1))
    queue.remove("1")
    assert taken(queue) == ["2"]


def test_removing_what_does_not_wait_changes_nothing():
    queue = filled(("a", "1", 1))
    queue.remove("2")
    assert len(queue) == 1


def test_full_queue_refuses():
    queue = filled(("a", "1", 1), capacity=1)
    with pytest.raises(Overloaded, match="1 requests are waiting"):
        queue.put("b", "2", 1)


def test_key_that_waits_is_refused_a_second_time():
    queue = filled(("a", "1", 1))
    with pytest.raises(ValueError, match="waits already"):
        queue.put("b", "1", 1)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e6)), max_size=30),
    st.lists(st.integers(0, 29), max_size=5),
)
def test_every_request_is_served_once_or_removed(puts, removals):
    queue = filled(*((tenant, str(number), cost) for number, (tenant, cost) in enumerate(puts)))
    for number in removals:
        queue.remove(str(number))
    kept = {str(number) for number in range(len(puts))} - set(map(str, removals))
    assert sorted(taken(queue)) == sorted(kept)
    assert queue.take() is None
