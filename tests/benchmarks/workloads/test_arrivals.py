"""Processes keep their rate, traces keep their shape."""

import numpy as np
import pytest

from benchmarks.workloads.arrivals import ARRIVALS, Span, gamma, recorded, recorded_count, uniform, wander


@pytest.fixture
def random():
    return np.random.default_rng(1)


def cv(at_s):
    gaps_s = np.diff(at_s)
    return gaps_s.std() / gaps_s.mean()


def test_uniform_arrivals_are_at_equal_gaps(random):
    np.testing.assert_allclose(uniform(2.0, Span(duration_s=2.0), random).at_s, [0, 0.5, 1.0, 1.5])


@pytest.mark.parametrize("name", ARRIVALS)
def test_every_process_gives_the_rate_in_order_within_the_duration(name, random):
    at_s = ARRIVALS[name](5.0, Span(duration_s=200.0), random).at_s
    assert len(at_s) == 1000
    assert (np.diff(at_s) >= 0).all()
    assert at_s[0] >= 0
    assert at_s[-1] <= 200


@pytest.mark.parametrize(("name", "wanted"), [("poisson", 1.0), ("gamma", 4.0)])
def test_gaps_vary_as_promised(name, wanted, random):
    assert cv(ARRIVALS[name](100.0, Span(duration_s=1000.0), random).at_s) == pytest.approx(wanted, rel=0.05)


def test_peak_of_a_day_is_three_times_as_busy_as_its_trough(random):
    hours = np.histogram(ARRIVALS["diurnal"](100.0, Span(duration_s=2400.0), random).at_s, 24)[0]
    assert hours[11:13].sum() / hours[[0, -1]].sum() == pytest.approx(3.0, rel=0.05)


def test_flash_makes_a_tenth_of_the_time_five_times_as_busy(random):
    tenths = np.histogram(ARRIVALS["flash"](100.0, Span(duration_s=1000.0), random).at_s, 10)[0]
    assert tenths[5] / np.delete(tenths, 5).mean() == pytest.approx(5.0, rel=0.05)


def test_part_of_the_story_has_the_bursts_that_are_there(random):
    span = Span(duration_s=1000.0, begins=0.45, lasts=0.1)
    calm, crowded = np.histogram(ARRIVALS["flash"](100.0, span, random).at_s, 2, (0, 1000))[0]
    assert calm + crowded == 100_000
    assert crowded / calm == pytest.approx(5.0, rel=0.05)


def test_bursts_of_little_variation_are_nearly_even(random):
    assert cv(gamma(0.1)(100.0, Span(duration_s=100.0), random).at_s) == pytest.approx(0.1, rel=0.1)


def test_trace_at_its_own_rate_is_itself(random):
    times_s = np.array([0.0, 0.1, 3.0])
    coming = recorded(times_s, 4.0)(3 / 4, Span(duration_s=4.0), random)
    np.testing.assert_array_equal(coming.at_s, times_s)
    np.testing.assert_array_equal(coming.rows, [0, 1, 2])


def test_trace_that_ends_begins_again(random):
    coming = recorded(np.array([0.0, 1.0]), 4.0)(3 / 5, Span(duration_s=5.0), random)
    np.testing.assert_array_equal(coming.at_s, [0, 1, 4])
    np.testing.assert_array_equal(coming.rows, [0, 1, 2])


def test_twice_the_rate_cuts_every_gap_in_two(random):
    coming = recorded(np.array([0.0, 1.0, 3.0]), 4.0)(6 / 4, Span(duration_s=4.0), random)
    np.testing.assert_allclose(coming.at_s, [0, 0.5, 1, 2, 3, 3.5])
    np.testing.assert_array_equal(coming.rows, [0, 0, 1, 1, 2, 2])


def test_half_the_rate_leaves_out_requests_and_keeps_the_times_of_the_rest(random):
    times_s = np.array([0.0, 1.0, 3.0, 3.5])
    coming = recorded(times_s, 4.0)(2 / 4, Span(duration_s=4.0), random)
    assert len(coming.rows) == 2
    np.testing.assert_array_equal(coming.at_s, times_s[coming.rows])


def test_higher_rate_keeps_bursts_and_busy_minutes(random):
    times_s = np.sort(np.concatenate([random.uniform(0, 600, 300), random.uniform(120, 180, 600)]))
    more_s = recorded(times_s, 600.0)(15.0, Span(duration_s=600.0), random).at_s
    assert cv(more_s) == pytest.approx(cv(times_s), rel=0.02)
    minutes = np.histogram(times_s, 10, (0, 600))[0]
    np.testing.assert_allclose(np.histogram(more_s, 10, (0, 600))[0], minutes * 10, atol=20)


def test_requests_of_a_part_of_a_trace_are_counted_over_repetitions():
    times_s = np.array([0.0, 1.0, 3.0])
    assert [recorded_count(times_s, 4.0, duration_s) for duration_s in (1.5, 4.0, 5.5)] == [2, 3, 5]


def test_walk_has_its_spread_and_forgets(random):
    walk = wander(20_000, 1, 0.5, 10.0, random)[:, 0]
    assert walk.std() == pytest.approx(0.5, rel=0.1)
    assert np.corrcoef(walk[:-10], walk[10:])[0, 1] == pytest.approx(np.exp(-1), abs=0.1)
