"""Demand: what is forecast from token counts that come at any time."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.demand import Demand, DemandConfig
from cluster.view import Adapter
from lorajax.spec import Version

CONFIG = DemandConfig(window_s=5.0, half_life_s=60.0, horizon_s=30.0, quantile=0.9, prior_tokens_per_s=2.0)
A, B, C = (Version(letter * 64) for letter in "abc")


def adapters(**rank_of):
    names = {"a": A, "b": B, "c": C}
    return {
        names[name]: Adapter(version=names[name], rank=rank, num_bytes=1, path="store")
        for name, rank in rank_of.items()
    }


def fed(rate_of, *, seconds: int, known, every_s: float = 1.0):
    """A demand that has seen `rate_of(second)` tokens/s of A."""
    demand = Demand(CONFIG)
    demand.forecast(known, now_s=0.0)
    now_s, owed = 0.0, 0.0
    while now_s < seconds:
        owed += rate_of(now_s) * every_s
        now_s += every_s
        demand.observe({A: int(owed)}, now_s=now_s)
        owed -= int(owed)
    return demand.forecast(known, now_s=now_s), demand


def test_steady_traffic_is_forecast_as_it_is():
    forecast, _ = fed(lambda _: 40.0, seconds=600, known=adapters(a=8))
    assert forecast[A].mean == pytest.approx(40.0, rel=0.02)
    assert forecast[A].high == pytest.approx(40.0, rel=0.1)


def test_growing_traffic_is_not_forecast_at_its_smoothed_past():
    rising, _ = fed(lambda s: s / 5, seconds=600, known=adapters(a=8))
    smoothed = 120.0 - CONFIG.half_life_s / 0.69 / 5
    assert rising[A].mean > smoothed + 3
    assert rising[A].high > 112.0


def test_bursty_traffic_has_a_higher_quantile_than_steady_traffic_of_the_same_mean():
    steady, _ = fed(lambda _: 40.0, seconds=600, known=adapters(a=8))
    bursty, _ = fed(lambda s: 400.0 if int(s) % 50 < 5 else 0.0, seconds=600, known=adapters(a=8))
    assert bursty[A].high > 1.3 * steady[A].high


def test_adapter_that_died_is_forecast_at_exactly_zero():
    _, demand = fed(lambda _: 500.0, seconds=300, known=adapters(a=8))
    assert demand.forecast(adapters(a=8), now_s=4000.0)[A].high == 0.0


def test_demand_falls_steadily_once_traffic_stops():
    _, demand = fed(lambda _: 500.0, seconds=300, known=adapters(a=8))
    means = [demand.forecast(adapters(a=8), now_s=300.0 + later)[A].mean for later in (60, 120, 180, 240)]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 100


def test_new_adapter_starts_at_the_mean_of_its_rank():
    _, demand = fed(lambda _: 40.0, seconds=600, known=adapters(a=8, b=64))
    forecast = demand.forecast(adapters(a=8, b=64, c=8), now_s=600.0)
    assert forecast[C].mean == pytest.approx(40.0, rel=0.02)


def test_new_adapter_of_a_new_rank_starts_at_the_mean_of_all():
    _, demand = fed(lambda _: 40.0, seconds=600, known=adapters(a=8, b=64))
    forecast = demand.forecast(adapters(a=8, b=64, c=16), now_s=600.0)
    assert forecast[C].mean == pytest.approx(20.0, rel=0.05)


def test_first_adapters_start_at_the_configured_prior():
    assert Demand(CONFIG).forecast(adapters(a=8), now_s=7.0)[A].mean == 2.0


def test_prior_fades_where_nothing_comes():
    demand = Demand(CONFIG)
    demand.forecast(adapters(a=8), now_s=0.0)
    assert demand.forecast(adapters(a=8), now_s=600.0)[A].mean < 0.1


def test_many_new_adapters_together_want_no_more_than_the_old_ones():
    _, demand = fed(lambda _: 40.0, seconds=600, known=adapters(a=8))
    cold = {
        Version(f"{number:064x}"): Adapter(version=Version(f"{number:064x}"), rank=8, num_bytes=1, path="store")
        for number in range(10_000)
    }
    forecast = demand.forecast(adapters(a=8) | cold, now_s=600.0)
    assert sum(forecast[version].mean for version in cold) == pytest.approx(forecast[A].mean)


def test_successor_is_forecast_as_what_it_replaces():
    before, demand = fed(lambda _: 40.0, seconds=600, known=adapters(a=8))
    demand.succeed(A, B)
    assert demand.forecast(adapters(b=8), now_s=600.0)[B] == before[A]


def test_nothing_is_observed_before_a_window_with_tokens_has_closed():
    demand = Demand(CONFIG)
    demand.observe({}, now_s=0.0)
    demand.observe({A: 1}, now_s=6.0)
    before = demand.has_observed
    demand.observe({}, now_s=12.0)
    assert (before, demand.has_observed) == (False, True)


def test_adapter_that_is_gone_is_forgotten():
    _, demand = fed(lambda _: 40.0, seconds=600, known=adapters(a=8))
    demand.forecast(adapters(b=8), now_s=600.0)
    assert demand.forecast(adapters(a=16, b=8), now_s=600.0)[A].mean < 41.0
    assert set(demand.forecast(adapters(b=8), now_s=600.0)) == {B}


def test_clock_that_jumps_far_ahead_is_taken_at_once():
    demand = Demand(CONFIG)
    demand.observe({A: 100}, now_s=0.0)
    assert demand.forecast(adapters(a=8), now_s=1e12)[A].high == 0.0


def test_clock_that_goes_back_changes_nothing():
    forecast, demand = fed(lambda _: 40.0, seconds=600, known=adapters(a=8))
    assert demand.forecast(adapters(a=8), now_s=500.0) == forecast


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.05, 12.0), min_size=1, max_size=200))
def test_irregular_beats_give_about_the_forecast_of_regular_ones(gaps):
    demand, now_s = Demand(CONFIG), 0.0
    demand.forecast(adapters(a=8), now_s=0.0)
    rounds = itertools.chain.from_iterable(itertools.repeat(gaps, int(900 / sum(gaps)) + 1))
    for gap in rounds:
        now_s += gap
        demand.observe({A: round(1000 * gap)}, now_s=now_s)
    assert demand.forecast(adapters(a=8), now_s=now_s)[A].mean == pytest.approx(1000.0, rel=0.35)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**6)), max_size=60))
def test_high_is_never_below_the_mean_nor_the_mean_below_zero(beats):
    demand, now_s = Demand(CONFIG), 0.0
    for gap, tokens in beats:
        now_s += gap
        demand.observe({A: tokens}, now_s=now_s)
    forecast = demand.forecast(adapters(a=8), now_s=now_s)[A]
    assert 0 <= forecast.mean <= forecast.high


@pytest.mark.parametrize(("field", "value"), [("window_s", 0.0), ("half_life_s", float("inf")), ("quantile", 1.0)])
def test_config_without_sense_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        DemandConfig(**{field: value})
