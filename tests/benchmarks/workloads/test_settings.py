"""Settings by name: what they are made of, and that a seed says it all."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.workloads.setting import Crowd
from benchmarks.workloads.settings import LORASERVE_PRODUCTION, LORASERVE_PUBLIC, NAMED, named


@pytest.mark.parametrize("name", NAMED)
def test_seed_makes_the_same_workload_again_and_another_makes_another(name):
    first, again, other = (named(name, rate=4.0, duration_s=50.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.arrivals != other.arrivals


@pytest.mark.parametrize("name", NAMED.keys() - {"cold-crowd"})
def test_rate_and_duration_are_kept_to_the_request(name):
    workload = named(name, rate=4.0, duration_s=50.0)
    assert len(workload.arrivals) == 200
    assert workload.span_s <= 50


def test_six_public_settings_have_five_adapters_of_each_rank():
    assert len(LORASERVE_PUBLIC) == 6
    for setting in LORASERVE_PUBLIC:
        assert Counter(setting(rate=1.0, duration_s=10.0).ranks.values()) == dict.fromkeys((8, 16, 32, 64, 128), 5)


def test_production_settings_are_eight_hours_of_50_100_and_200_adapters():
    assert [len(setting.adapters) for setting in LORASERVE_PRODUCTION] == [50, 100, 200]
    assert {round(setting.rate * setting.duration_s) for setting in LORASERVE_PRODUCTION} == {250_138}


def test_paced_setting_plays_another_part_of_the_eight_hours_for_each_seed():
    paced = replace(NAMED["production-50"], pace=10.0)
    first, again, other = (paced(rate=4.0, duration_s=288.0, seed=seed).facts["begins"] for seed in (1, 1, 2))
    assert first == again != other
    assert 0 <= first <= 0.9


def test_popularity_that_is_paced_as_in_life_hardly_changes_in_minutes():
    squeezed = NAMED["loraserve-poisson-shifting"]
    counts = []
    for setting in (squeezed, replace(squeezed, pace=1.0)):
        workload = setting(rate=40.0, duration_s=300.0)
        parts = [[one for one in workload.arrivals if begins <= one.at_s < begins + 100] for begins in (0, 100)]
        small, large = (sum(workload.ranks[one.adapter] == 8 for one in part) for part in parts)
        counts.append(small / large)
    assert counts[0] > 2
    assert counts[1] == pytest.approx(1, rel=0.15)


def test_pace_of_more_than_the_eight_hours_plays_them_all():
    workload = replace(NAMED["day"], pace=1e6)(rate=4.0, duration_s=50.0)
    assert workload.arrivals == NAMED["day"](rate=4.0, duration_s=50.0).arrivals


def test_adapters_of_a_production_rank_are_popular_by_a_power_law():
    workload = named("production-200", rate=20.0, duration_s=1000.0)
    of_rank = Counter(one.adapter for one in workload.arrivals if workload.ranks[one.adapter] == 64)
    assert sum(count for _, count in of_rank.most_common(4)) > 0.4 * of_rank.total()


def test_crowd_leaves_all_other_requests_as_they_are():
    crowded = named("cold-crowd", rate=10.0, duration_s=100.0)
    calm = named("cold-crowd", rate=10.0, duration_s=100.0, crowds=())
    assert tuple(one for one in crowded.arrivals if one.adapter != "cold") == calm.arrivals


def test_crowd_comes_in_its_tenth_of_the_time_for_a_cold_adapter_of_rank_128():
    workload = named("cold-crowd", rate=10.0, duration_s=100.0)
    crowd_s = [one.at_s for one in workload.arrivals if one.adapter == "cold"]
    assert workload.ranks["cold"] == 128
    assert len(crowd_s) == 50
    assert min(crowd_s) >= 50
    assert max(crowd_s) <= 60


def test_other_popularity_leaves_times_and_lengths_as_they_are():
    plain, other = (named("zipf", rate=5.0, duration_s=20.0, popularity=name) for name in ("zipf", "uniform"))
    asked = [[(one.at_s, one.prompt_tokens, one.output_tokens) for one in each.arrivals] for each in (plain, other)]
    assert asked[0] == asked[1]


def test_parts_are_changed_by_name_and_told_in_the_facts():
    workload = named(
        "zipf", rate=5.0, duration_s=20.0, seed=3, adapters=7, arrivals="uniform", ranks="8", lengths="code",
        crowds=(Crowd(adapter="hot"),),
    )  # fmt: skip
    assert workload.facts == {
        "arrivals": "uniform",
        "popularity": "zipf",
        "ranks": "8",
        "lengths": "code",
        "adapters": 7,
        "rate": 5.0,
        "duration_s": 20.0,
        "seed": 3,
        "crowd on hot": "0.5 x for 0.1 from 0.5",
    }
    np.testing.assert_allclose([one.at_s for one in workload.arrivals if one.adapter != "hot"], np.arange(100) / 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"popularity": "fame"}, r"popularity 'fame' is not known; write one of uniform, zipf"),
        ({"rate": -1.0}, r"rate is -1; write a number above 0"),
        ({"adapters": 0}, r"adapters is 0; write 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        named("zipf", **changes)


def test_unknown_workload_is_refused_with_the_names_of_all():
    with pytest.raises(ValueError, match="workload 'x' is not known; write one of loraserve-uniform-uniform, "):
        named("x")
