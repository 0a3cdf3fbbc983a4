"""Who is asked for, and when that changes."""

import numpy as np
import pytest

from benchmarks.workloads.arrivals import Coming, Span
from benchmarks.workloads.popularity import POPULARITY, in_turn, recorded

RANKS = np.array([8, 8, 64, 64])
COUNT = 40_000
EVEN = Coming(at_s=np.linspace(0, 100, COUNT, endpoint=False), rows=np.arange(COUNT))


@pytest.fixture
def random():
    return np.random.default_rng(1)


def shares(name, random, ranks=RANKS, part=slice(None)):
    picks = POPULARITY[name](EVEN, ranks, Span(duration_s=100.0), random)[part]
    return np.bincount(picks, minlength=len(ranks)) / len(picks)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("uniform", [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        ("zipf", np.array([1, 2**-1.11, 3**-1.11, 4**-1.11]) / (1 + 2**-1.11 + 3**-1.11 + 4**-1.11)),
        ("exponential", np.exp([0, -1.25, -2.5, -3.75]) / np.exp([0, -1.25, -2.5, -3.75]).sum()),
        ("ranks-uniform", [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        ("ranks-exponential", [1 / 3, 1 / 3, 1 / 6, 1 / 6]),
    ],
)
def test_requests_follow_the_law(name, wanted, random):
    np.testing.assert_allclose(shares(name, random), wanted, atol=0.01)


def test_ranks_share_alike_whatever_number_of_adapters_they_have(random):
    np.testing.assert_allclose(shares("ranks-uniform", random, np.array([8, 64, 64])), [1 / 2, 1 / 4, 1 / 4], atol=0.01)


def test_busiest_rank_moves_from_the_smallest_to_the_largest_and_back(random):
    begin, middle, end = (slice(0, 800), slice(COUNT // 2 - 400, COUNT // 2 + 400), slice(COUNT - 800, COUNT))
    ranks = np.array([8, 128])
    busiest = [shares("ranks-shifting", random, ranks, part).argmax() for part in (begin, middle, end)]
    assert busiest == [0, 1, 0]


def test_shifting_popularity_moves_seven_places_every_tenth_of_the_time(random):
    ranks = np.full(20, 8)
    tenths = [slice(tenth * COUNT // 10, (tenth + 1) * COUNT // 10) for tenth in range(10)]
    assert [shares("shifting", random, ranks, tenth).argmax() for tenth in tenths[:4]] == [0, 7, 14, 1]


def test_part_of_the_story_has_the_popularity_that_is_there(random):
    span = Span(duration_s=100.0, begins=0.15, lasts=0.1)
    picks = POPULARITY["shifting"](EVEN, np.full(20, 8), span, random)
    assert [np.bincount(half).argmax() for half in np.split(picks, 2)] == [7, 14]


def test_restless_popularity_is_another_at_the_end(random):
    ranks = np.repeat([8, 64], 10)
    first, last = (shares("restless", random, ranks, part) for part in (slice(0, 4000), slice(-4000, None)))
    assert np.abs(first - last).sum() > 0.2


def test_order_of_a_trace_stays_with_its_rows(random):
    coming = Coming(at_s=np.zeros(5), rows=np.array([0, 0, 1, 2, 3]))
    picks = recorded(["b", "", "a"], ["a", "b"])(coming, RANKS, Span(duration_s=1.0), random)
    np.testing.assert_array_equal(picks, [1, 1, -1, 0, 1])


def test_order_of_another_trace_goes_on_with_every_request(random):
    coming = Coming(at_s=np.zeros(5), rows=np.array([0, 0, 1, 2, 3]))
    picks = in_turn(["b", "", "a"], ["a", "b"])(coming, RANKS, Span(duration_s=1.0), random)
    np.testing.assert_array_equal(picks, [1, -1, 0, 1, -1])
