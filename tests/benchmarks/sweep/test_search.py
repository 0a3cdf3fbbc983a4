"""The search for the most load, against a source whose limits are known."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.outcomes import claims, sweeps
from benchmarks.sweep import search
from benchmarks.sweep.search import FEWER, Wanted
from benchmarks.sweep.tasks import INTERFERENCE
from tests.benchmarks.outcomes.made_sweep import point

_SUSTAINED = {"ours": 10.0, "toppings": 11.0, "loraserve": 7.5, "contiguous": 5.0, "random": 0.0}
"""Requests/s of one host within the SLO."""


class Closed:
    """TTFT as a formula: it reaches the SLO where the load is what the hosts sustain."""

    def __init__(self):
        self.asked = []

    def point(self, task):
        self.asked.append(task)
        case = task.case
        sustained = case.hosts * _SUSTAINED[case.system] * (1 - 0.01 * case.seed)
        tail_s = case.slo_s * (task.rate / sustained) ** 4 if sustained else math.inf
        found = replace(point(task.rate, tail_s), case=case)
        return replace(found, tail_ttft_s=2 * tail_s) if task.variant == INTERFERENCE else found

    def kept(self, task):
        point = self.point(task)
        return point if point.is_within else None

    def guess(self, case):
        return 25.0

    def is_possible(self, case, rate):
        return rate <= 12.0 * case.hosts

    def least_rate(self):
        return 0.1

    def facts(self):
        return {"hardware": "none"}


def _wanted(**other):
    return Wanted(
        **{
            "settings": ("zipf",),
            "systems": ("ours",),
            "kernels": ("rank-exact",),
            "slos_s": (10.0,),
            "seeds": 1,
            "hosts": 4,
            "resolution": 0.03,
            "has_trials": False,
        }
        | other
    )


def _run(tmp_path, **other):
    source = Closed()
    return search.run(_wanted(**other), source, 1, tmp_path / "sweep.json"), source


@pytest.mark.parametrize("limit", [-50, -1, 0, 1, 17, 400])
@pytest.mark.parametrize("start", [-50, 0, 3, 300])
def test_highest_is_found_from_anywhere(limit, start):
    assert search.highest(lambda number: number <= limit, start, -50) == limit


def test_highest_of_nothing_is_none():
    assert search.highest(lambda _: False, 7, 0) is None


def test_highest_asks_few_questions():
    asked = []
    search.highest(lambda number: asked.append(number) or number <= 100, 80, 0, 4)
    assert len(asked) <= 8


def test_limit_is_within_and_the_next_load_is_not(tmp_path):
    sweep, _ = _run(tmp_path)
    assert sweep.limits[0].rate <= 40 < sweep.limits[0].rate * 1.03
    assert sweep.limits[0].held_share == 0.25


def test_system_that_keeps_no_load_has_limit_zero(tmp_path):
    assert _run(tmp_path, systems=("random",))[0].limits[0].rate == 0.0


def test_systems_meet_at_the_same_loads(tmp_path):
    sweep, _ = _run(tmp_path, systems=("ours", "loraserve", "contiguous"), kernels=("batch-max",))
    loads = {
        name: {one.rate for one in sweep.points if one.case.system == name} for name in ("loraserve", "contiguous")
    }
    assert len(loads["loraserve"] & loads["contiguous"]) >= 3


def test_points_of_a_case_rise_and_come_once(tmp_path):
    rates = [one.rate for one in _run(tmp_path)[0].points]
    assert all(low < high for low, high in pairwise(rates))


def test_latencies_are_kept_at_the_limit_only(tmp_path):
    sweep, _ = _run(tmp_path)
    assert [one.rate for one in sweep.points if one.cdf_by_rank] == [sweep.limits[0].rate]


def test_every_setting_slo_seed_kernel_and_system_has_a_limit(tmp_path):
    sweep, _ = _run(
        tmp_path,
        settings=("zipf", "bursts"),
        slos_s=(10.0, 2.0),
        seeds=2,
        kernels=("rank-exact", "batch-max"),
        systems=("ours", "loraserve"),
    )
    assert len({one.case for one in sweep.limits}) == 2**5


def test_without_curves_only_the_search_is_simulated(tmp_path):
    assert len(_run(tmp_path, has_curves=False)[1].asked) < len(_run(tmp_path)[1].asked)


def test_fewest_hosts_are_found(tmp_path):
    sweep, _ = _run(tmp_path, need=(32.0, 500.0))
    assert [one.hosts for one in sweep.needs] == [4, math.inf]


def test_ours_is_disturbed_below_its_limit(tmp_path):
    sweep, _ = _run(tmp_path, has_trials=True, systems=("ours", "loraserve"), kernels=("rank-exact",))
    assert len(sweep.trials) == 4
    assert {one.case.system for one in sweep.trials} == {"ours"}
    assert all(one.rate == pytest.approx(0.7 * sweep.limits[0].rate, rel=1e-5) for one in sweep.trials)


def test_lost_host_is_shown_beside_one_host_fewer(tmp_path):
    sweep, _ = _run(tmp_path, has_trials=True)
    (fewer,) = (one for one in sweep.trials if one.disturbance == FEWER)
    assert (fewer.case.hosts, fewer.goal) == (4, None)
    assert fewer.disturbed_s / fewer.calm_s == pytest.approx((4 / 3) ** 4)


def test_one_host_alone_is_not_made_fewer(tmp_path):
    sweep, _ = _run(tmp_path, has_trials=True, hosts=1)
    assert FEWER not in {one.disturbance for one in sweep.trials}


def test_rank_8_is_put_beside_rank_128_on_one_padded_host(tmp_path):
    sweep, _ = _run(tmp_path, has_trials=True, systems=("contiguous",), kernels=("batch-max",))
    row = claims.reproduction(sweep)[-1]
    assert row.extreme == pytest.approx(2.0)
    assert {one.case.hosts for one in sweep.trials} == {1}
    assert [one.rate for one in sweep.trials] == sorted({one.rate for one in sweep.trials})


def test_bound_is_found_for_ours_as_it_is_shown(tmp_path):
    sweep, _ = _run(tmp_path, kernels=("rank-exact", "batch-max"), systems=("ours", "loraserve"))
    assert [one.kernels for one in sweep.bounds] == ["rank-exact"]
    assert sweep.bounds[0].rate <= 48 < sweep.bounds[0].rate * 1.03
    assert sweep.bounds[0].unburdened_rate <= 44 < sweep.bounds[0].unburdened_rate * 1.03


def test_sweep_is_written(tmp_path):
    sweep, _ = _run(tmp_path)
    assert sweeps.read(tmp_path / "sweep.json").limits == sweep.limits
