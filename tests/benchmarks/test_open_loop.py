"""The trace of requests: the same for everyone, at its rate, skewed, and shifting."""

from collections import Counter
from itertools import islice, pairwise

from benchmarks.open_loop import SHIFT_S, trace

ADAPTERS = [f"adapter-{number}" for number in range(30)]


def arrivals(rate=200.0, seconds=SHIFT_S, began_s=0.0, seed=0):
    return list(trace(ADAPTERS, rate, seconds, began_s, seed))


def first(found):
    return Counter(arrival.adapter for arrival in found).most_common(1)[0][0]


def test_the_same_seed_gives_the_same_requests():
    assert arrivals() == arrivals()


def test_requests_come_in_order_at_the_rate():
    found = arrivals()
    assert all(before.at_s <= after.at_s for before, after in pairwise(found))
    assert abs(len(found) / (200.0 * SHIFT_S) - 1) < 0.1


def test_the_most_popular_adapter_changes():
    assert first(arrivals()) != first(arrivals(began_s=SHIFT_S))


def test_a_few_adapters_have_most_of_the_requests():
    counts = Counter(arrival.adapter for arrival in arrivals())
    assert sum(islice(sorted(counts.values(), reverse=True), 5)) > 0.4 * counts.total()
