"""What the numbers of a run mean, against cases computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.outcomes.statistics import Distribution, Slo, percentiles, summary
from tests.benchmarks.outcomes.made import OUTCOMES, SLO, run

FOUND = summary(run(), SLO)


def test_percentiles_lie_linearly_between_neighbours():
    # 0.95 * (5 - 1) = 3.8: from 4 to 10, eight tenths of the way
    assert percentiles((10.0, 1.0, 3.0, 2.0, 4.0), (0.0, 0.5, 0.95, 1.0)) == pytest.approx((1.0, 3.0, 8.8, 10.0))


def test_percentiles_are_numpys_on_finite_values():
    values = np.random.default_rng(0).exponential(size=37)
    shares = (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0)
    assert percentiles(values, shares) == pytest.approx(np.quantile(values, shares))


def test_percentile_next_to_an_infinite_value_is_infinite_and_one_below_is_not():
    values = (1.0, 2.0, 3.0, math.inf, math.inf)
    assert percentiles(values, (0.5, 0.6, 0.75, 1.0)) == (3.0, math.inf, math.inf, math.inf)


def test_distribution_of_nothing_is_none():
    assert Distribution.of([]) is None


def test_tokens_and_throughput_are_of_requests_that_succeeded():
    assert (FOUND.num_requests, FOUND.num_successful, FOUND.failed) == (4, 3, {"UNAVAILABLE": 1})
    assert (FOUND.input_tokens, FOUND.output_tokens) == (60, 9)
    assert (FOUND.request_throughput, FOUND.output_throughput, FOUND.total_throughput) == (0.3, 0.9, 6.9)


def test_ttft_counts_from_when_a_request_was_due():
    assert FOUND.ttft == Distribution(
        num=3,
        mean=2.0,
        std=pytest.approx(math.sqrt(2 / 3)),
        median=2.0,
        p95=pytest.approx(2.9),
        p99=pytest.approx(2.98),
        max=3.0,
    )


def test_tpot_leaves_out_requests_of_one_token():
    assert FOUND.tpot.num == 2
    assert FOUND.tpot.mean == pytest.approx((0.5 + 0.25) / 2)


def test_itl_is_of_the_gaps_between_messages_of_all_requests():
    assert (FOUND.itl.num, FOUND.itl.mean) == (3, pytest.approx((0.5 + 0.5 + 1.0) / 3))


def test_itl_is_unknown_where_no_messages_were_kept():
    assert summary(run(outcomes=tuple(replace(one, token_s=()) for one in OUTCOMES)), SLO).itl is None


def test_e2el_counts_from_when_a_request_was_due():
    assert (FOUND.e2el.mean, FOUND.e2el.max) == (pytest.approx((2 + 4 + 2) / 3), 4.0)


def test_late_sends_are_counted_and_measured():
    assert (FOUND.num_late, FOUND.lateness.max, FOUND.lateness.mean) == (1, 0.5, 0.125)


def test_failed_requests_are_infinitely_late_for_the_slo():
    assert FOUND.tail_ttft_s == math.inf
    assert not FOUND.is_within


def test_an_answer_without_tokens_is_a_failure():
    found = summary(run(outcomes=(replace(OUTCOMES[0], first_s=math.inf), OUTCOMES[1])), SLO)
    assert (found.failed, found.num_good) == ({"NO_TOKENS": 1}, 0)


def test_a_limit_that_is_just_reached_is_kept():
    assert summary(run(outcomes=OUTCOMES[2:3]), SLO).is_within


@pytest.mark.parametrize(("num", "most"), [(1, 0), (20, 1), (21, 1), (100, 5), (101, 5)])
def test_so_many_may_be_late_and_one_more_may_not(num, most):
    slo = Slo(ttft_s=1.0)
    tails = [percentiles([0.5] * (num - late) + [9.0] * late, (slo.quantile,))[0] for late in (most, most + 1)]
    assert slo.most_late(num) == most
    assert tails[0] < 9.0 == tails[1]


def test_attainment_and_goodput_are_of_all_requests():
    assert (FOUND.num_good, FOUND.attainment, FOUND.goodput) == (2, 0.5, 0.2)


@pytest.mark.parametrize(
    ("slo", "num_good"),
    [(Slo(), 3), (Slo(tpot_s=0.3), 2), (Slo(e2el_s=3.0), 2), (Slo(ttft_s=1.5, tpot_s=0.5, e2el_s=2.0), 1)],
)
def test_a_good_request_meets_every_limit_and_one_of_one_token_any_tpot(slo, num_good):
    assert summary(run(), slo).num_good == num_good


def test_groups_are_by_rank_and_by_adapter():
    large = FOUND.by_rank[128]
    assert list(FOUND.by_rank) == [8, 128]
    assert FOUND.by_adapter == {"large": large, "small": FOUND.by_rank[8]}
    assert (large.num_requests, large.num_failed, large.input_tokens, large.attainment) == (2, 1, 20, 0.0)
    assert (large.ttft.median, large.tail_ttft_s) == (3.0, math.inf)


def test_cdf_of_a_rank_goes_from_its_fastest_to_its_slowest_request():
    assert (FOUND.cdf_by_rank[8][0], FOUND.cdf_by_rank[8][50], FOUND.cdf_by_rank[8][100]) == (1.0, 1.5, 2.0)
    assert FOUND.cdf_by_rank[128][100] == math.inf


def test_hosts_come_together():
    pool = FOUND.pool
    assert pool.hit_shares == (0.5, 0.25, 0.25)
    assert (pool.stall_s, pool.held_bytes, pool.max_held_adapters) == (0.75, 2.5 * 2**20, 2)
    assert FOUND.imbalance == 1.5


def test_hosts_that_nobody_saw_leave_numbers_open():
    found = summary(replace(run(), hosts={}), SLO)
    assert math.isnan(found.imbalance)
    assert found.pool.hit_shares is None


def test_run_without_requests_is_refused():
    with pytest.raises(ValueError, match="no requests; give the workload"):
        summary(run(outcomes=()), SLO)
