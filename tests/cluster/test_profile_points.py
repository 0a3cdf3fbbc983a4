"""From trials to operating points, worked out by hand."""

import pytest

from cluster.config import ServeConfig
from cluster.profile_points import Profile, ProfileConfig, Slo, Trial, levels, percentile_95, wants_more
from lorajax.config import EngineConfig

SLO = Slo(ttft_p95_s=1.0, tbt_p95_s=0.1)
ENGINE = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=1)


def trial(concurrency, tokens_per_s, ttft_s=0.5, tbt_s=0.05):
    return Trial(concurrency=concurrency, tokens_per_s=tokens_per_s, ttft_p95_s=ttft_s, tbt_p95_s=tbt_s)


def ladder(*rates, **latency):
    """Trials at 1, 2, 4 … requests in flight."""
    return [trial(2**power, rate, **latency) for power, rate in enumerate(rates)]


def profile(mixed=(200.0, 250.0), **by_rank):
    ladders = {"base": (400.0,), "low": (300.0, 500.0), "high": (200.0, 250.0)} | by_rank
    kinds = {(0,): "base", (8,): "low", (128,): "high"}
    trials = {kind: ladder(*ladders[name]) for kind, name in kinds.items()}
    return Profile(slo=SLO, trials=trials | {(8, 128): ladder(*mixed)}, fetch_bytes_per_s=1e6)


def config(*ranks):
    return ProfileConfig(serve=ServeConfig(model="base", engine=ENGINE), slo=SLO, ranks=ranks)


@pytest.mark.parametrize(("max_sequences", "expected"), [(1, (1, 2)), (4, (1, 2, 4, 8)), (6, (1, 2, 4, 8))])
def test_levels_double_up_to_twice_what_is_decoded_together(max_sequences, expected):
    assert levels(max_sequences) == expected


def test_base_each_rank_and_one_mix_are_measured_those_that_are_compared_last():
    assert config(128, 8, 32, 8).kinds == ((0,), (32,), (8,), (128,), (8, 128))


@pytest.mark.parametrize("ranks", [(), (8,), (8, 8), (0, 8), (8, 257)])
def test_ranks_without_a_mix_or_beyond_the_largest_are_refused(ranks):
    with pytest.raises(ValueError, match="name two or more of 1 … 256"):
        config(*ranks)


@pytest.mark.parametrize("missed", [{"ttft_s": 1.1}, {"tbt_s": 0.11}], ids=["TTFT", "TBT"])
def test_ladder_ends_with_the_first_miss(missed):
    assert wants_more(ladder(1, 2), SLO)
    assert not wants_more([trial(1, 1), trial(2, 2, **missed)], SLO)


def test_second_level_is_tried_even_after_a_miss():
    assert wants_more([trial(1, 1, ttft_s=9.0)], SLO)


def test_most_tokens_within_the_target_are_what_is_sustained():
    trials = [*ladder(100.0, 300.0, 200.0), trial(8, 900.0, ttft_s=1.5)]
    measured = Profile(slo=SLO, trials={(8,): trials}, fetch_bytes_per_s=1.0)
    assert measured.sustained((8,)) == trial(2, 300.0)


def test_one_request_at_a_time_stands_in_where_the_target_is_always_missed():
    trials = ladder(100.0, 300.0, ttft_s=2.0)
    measured = Profile(slo=SLO, trials={(8,): trials}, fetch_bytes_per_s=1.0)
    assert measured.sustained((8,)) == trials[0]


def test_target_that_is_always_missed_is_said():
    measured = profile()
    trials = {**measured.trials, (128,): ladder(200.0, 250.0, tbt_s=0.2)}
    doubts = Profile(slo=SLO, trials=trials, fetch_bytes_per_s=1.0).doubts
    assert [words for words in doubts if words.startswith("rank 128 misses the target")]


def test_points_are_the_sustained_rates_by_rank():
    measured = profile(base=(800.0,))
    assert measured.points.tokens_per_s == pytest.approx({0: 800.0, 8: 500.0, 128: 250.0})


def test_larger_rank_that_came_out_cheaper_shares_the_mean_cost():
    # 1/400 and 1/600 s a token: the mean is 1/480.
    measured = profile(base=(400.0,), low=(600.0, 600.0))
    assert measured.points.tokens_per_s == pytest.approx({0: 480.0, 8: 480.0, 128: 250.0})


# With two at once a token costs 2 ms at rank 8 and 4 ms at rank 128.
@pytest.mark.parametrize(
    ("mixed_rate", "mixing"),
    [(1 / 0.0030, 0.0), (1 / 0.0035, 0.5), (1 / 0.0040, 1.0)],
    ids=["mean", "between", "largest"],
)
def test_mixing_is_where_the_mix_lies_between_the_mean_cost_and_the_larger(mixed_rate, mixing):
    assert profile(mixed=(1.0, mixed_rate)).points.mixing == pytest.approx(mixing)


def test_mixing_is_the_median_of_the_levels_above_one():
    # At 2, 4 and 8 at once a token costs 2 and 4 ms alone; mixed 3, 3.5 and 4 ms.
    rates = {"low": (9.0, 500.0, 500.0, 500.0), "high": (9.0, 250.0, 250.0, 250.0)}
    assert profile(mixed=(9.0, 1 / 0.003, 1 / 0.0035, 250.0), **rates).points.mixing == pytest.approx(0.5)


def test_levels_that_one_of_the_three_did_not_reach_do_not_count():
    assert profile(mixed=(9.0, 1 / 0.003, 1.0, 1.0)).points.mixing == pytest.approx(0.0)


@pytest.mark.parametrize(("cost_s", "taken", "words"), [(0.0028, 0.0, "-0.20"), (0.0046, 1.0, "1.60")])
def test_mixing_outside_its_range_is_clamped_and_said(cost_s, taken, words):
    measured = profile(mixed=(1.0, 1 / cost_s))
    assert measured.points.mixing == taken
    assert measured.doubts == (f"mixing came out as {words}, and is taken as {taken:.0f}",)


def test_mixing_cannot_be_told_where_the_larger_rank_costs_no_more():
    measured = profile(high=(500.0, 500.0))
    assert measured.points.mixing == 0.0
    assert measured.doubts == ("mixing is taken as 0: rank 128 cost no more than rank 8, so it cannot be told",)


def test_nothing_is_in_doubt_where_all_went_well():
    assert profile().doubts == ()


@pytest.mark.parametrize(
    ("values", "expected"), [([7.0], 7.0), (range(1, 21), 19), (range(1, 101), 95), ([3, 1, 2], 3)]
)
def test_percentile_is_not_exceeded_by_95_in_100(values, expected):
    assert percentile_95(list(values)) == expected
