"""How a case becomes a simulation."""

from dataclasses import replace

import pytest

from benchmarks.sweep import simulated
from benchmarks.sweep.simulated import Plan
from benchmarks.sweep.tasks import AS_IT_IS, CALM, CROWD, INTERFERENCE, UNBURDENED, Task
from tests.benchmarks.outcomes.made_sweep import case


def _plan(folder, text=None, duration_s=10.0, warm_s=0.0, pace=48.0):
    if text is not None:
        (folder / "settings.toml").write_text(text)
    return Plan(
        hardware="a100-tp4-llama-7b-slora",
        duration_s=duration_s,
        warm_s=warm_s,
        pace=pace,
        interval_s=30.0,
        store=folder / "store",
        settings_file=None if text is None else folder / "settings.toml",
    )


def _task(variant=AS_IT_IS, rate=4.0, **where):
    return Task(case=case(**where), rate=rate, variant=variant)


def _requests(plan, variant, **where):
    return simulated._workload(plan, _task(variant, **where)).arrivals


def test_point_is_simulated_once(tmp_path):
    plan = _plan(tmp_path)
    first = plan.point(_task())
    stored = next((tmp_path / "store").rglob("*.json"))
    stored.write_text(stored.read_text().replace(f'"rate": {first.rate}', '"rate": 5.0'))
    assert plan.point(_task()).rate == 5.0


def test_load_that_is_kept_has_its_point_and_too_much_has_none(tmp_path):
    plan = _plan(tmp_path)
    assert plan.kept(_task()) == plan.point(_task())
    assert plan.kept(_task(rate=400.0)) is None


def test_lost_load_is_simulated_once_and_to_its_end_where_that_is_asked(tmp_path):
    plan, task = _plan(tmp_path), _task(rate=400.0)
    assert plan.kept(task) is None
    (lost,) = (tmp_path / "store").rglob("*.lost")
    before = lost.stat().st_mtime_ns
    assert plan.kept(task) is None
    assert lost.stat().st_mtime_ns == before
    assert not plan.point(task).is_within


def test_point_of_another_duration_is_another(tmp_path):
    _plan(tmp_path).point(_task())
    _plan(tmp_path, duration_s=12.0).point(_task())
    assert len(list((tmp_path / "store").rglob("*.json"))) == 2


def test_what_came_before_it_was_warm_is_not_judged(tmp_path):
    cold, warm = (_plan(tmp_path / str(warm_s), duration_s=20.0, warm_s=warm_s) for warm_s in (0.0, 10.0))
    longer = replace(cold, duration_s=30.0)
    assert _requests(warm, AS_IT_IS) == _requests(longer, AS_IT_IS)
    assert warm.point(_task()).tail_by_rank != longer.point(_task()).tail_by_rank


def test_what_hosts_held_moved_and_did_before_it_was_warm_is_not_counted(tmp_path):
    whole = _plan(tmp_path / "whole", duration_s=90.0).point(_task())
    judged = _plan(tmp_path / "judged", duration_s=30.0, warm_s=60.0).point(_task())
    assert 0 < judged.moved_bytes < whole.moved_bytes
    assert judged.held_bytes != whole.held_bytes
    assert judged.imbalance != whole.imbalance


def test_crowd_comes_on_top_of_the_same_requests(tmp_path):
    calm, crowded = (_requests(_plan(tmp_path), variant) for variant in (CALM, CROWD))
    assert tuple(one for one in crowded if one.adapter != "cold") == calm
    assert len(crowded) > len(calm)


def test_ranks_beside_each_other_are_8_and_128_by_turns(tmp_path):
    workload = simulated._workload(_plan(tmp_path), _task(INTERFERENCE))
    assert [workload.ranks[name] for name in sorted(workload.ranks)[:4]] == [8, 128, 8, 128]


def test_host_is_lost_in_the_busiest_stretch(tmp_path):
    workload = simulated._workload(_plan(tmp_path, duration_s=1000.0), _task(CROWD))
    assert 500 < simulated._peak_s(workload, 0.0) < 600


def test_settings_of_ones_own_have_their_own_names(tmp_path):
    plan = _plan(tmp_path, '[mine]\nworkload = "zipf"\nadapters = 7\n')
    assert plan.settings()[-1] == "mine"
    assert len(simulated._workload(plan, _task(setting="mine")).ranks) == 7


@pytest.mark.parametrize(("asked", "own", "played"), [(None, "", 5), (None, "pace = 20", 20), (48.0, "pace = 20", 48)])
def test_pace_is_that_of_the_plan_or_else_the_settings_own(tmp_path, asked, own, played):
    plan = _plan(tmp_path, f"[mine]\n{own}\n", pace=asked)
    assert simulated._workload(plan, _task(setting="mine")).facts["pace"] == played


@pytest.mark.parametrize("text", ["no toml", "[mine]\nadaptors = 7\n", '[mine]\nworkload = "nothing"\n', "mine = 7\n"])
def test_file_without_settings_is_refused_by_name(tmp_path, text):
    with pytest.raises(ValueError, match=r"settings.toml holds no settings .*; see `sweep --help`"):
        _plan(tmp_path, text).settings()


def test_trace_that_changed_is_simulated_anew(tmp_path):
    trace = tmp_path / "own.csv"
    text = f'[mine]\ntrace = "{trace}"\ncolumns = "time=when"\n'

    def point(prompt_tokens):
        simulated._digest.cache_clear()
        simulated._settings.cache_clear()
        trace.write_text("when,prompt_tokens,output_tokens\n" + f"0,{prompt_tokens},9\n2,{prompt_tokens},9\n" * 50)
        return _plan(tmp_path, text, duration_s=30.0).point(_task(setting="mine", rate=2.0))

    assert point(100).median_ttft_s < point(3000).median_ttft_s


def test_adapters_everywhere_at_no_cost_answer_no_later(tmp_path):
    plan = _plan(tmp_path, duration_s=60.0)
    real, unburdened = [plan.point(_task(variant, rate=8.0)) for variant in (AS_IT_IS, UNBURDENED)]
    assert unburdened.tail_ttft_s < real.tail_ttft_s
    assert unburdened.held_bytes > real.held_bytes


def test_bound_allows_what_is_little_and_not_what_is_much(tmp_path):
    plan = _plan(tmp_path, duration_s=60.0)
    assert plan.is_possible(case(), 1.0)
    assert not plan.is_possible(case(), 100.0)
