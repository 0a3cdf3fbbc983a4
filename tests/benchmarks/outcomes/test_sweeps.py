"""Sweeps written, read back, and judged by hand."""

import json
import math
from dataclasses import replace

import pytest

from benchmarks.outcomes import claims, sweep_tables, sweeps
from benchmarks.outcomes.sweeps import Sweep, Trial
from tests.benchmarks.outcomes.made_sweep import PADDED, SWEEP, case, limit


def _row(rows, start):
    return next(row for row in rows if row.claim.startswith(start))


def _text(sweep: Sweep) -> str:
    """Compared as text, in which an unknown number is like itself."""
    return repr(sweep)


def test_json_brings_everything_back(tmp_path):
    sweeps.write(SWEEP, tmp_path / "new" / "sweep.json")
    assert _text(sweeps.read(tmp_path / "new" / "sweep.json")) == _text(SWEEP)


def test_json_has_a_line_for_each_record(tmp_path):
    sweeps.write(SWEEP, tmp_path / "sweep.json")
    lines = (tmp_path / "sweep.json").read_text().splitlines()
    assert sum(line.startswith('  {"case"') for line in lines) == 5 + 7 + 4 + 1


def test_json_of_an_empty_sweep_is_json(tmp_path):
    sweeps.write(Sweep(facts={}), tmp_path / "sweep.json")
    assert json.loads((tmp_path / "sweep.json").read_text())["points"] == []


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "other.json").write_text('{"kind": "runs"}')
    with pytest.raises(ValueError, match=r"other.json holds no sweep .*; write it with"):
        sweeps.read(tmp_path / "other.json")


def test_a_ratio_stands_with_its_geometric_mean_and_its_worst_setting():
    row = _row(claims.ours(SWEEP), "load: ours (rank-exact) over loraserve (batch-max)")
    assert row.mean == pytest.approx(math.sqrt(40 / 32 * 45 / 30))
    assert (row.extreme, row.where, row.met) == (1.25, "zipf, 10 s", "yes")


def test_a_goal_that_only_the_mean_reaches_is_not_met_in_full():
    row = _row(claims.ours(SWEEP), "adapter bytes")
    assert (row.mean, row.extreme, row.met) == (pytest.approx(math.sqrt(0.25 * 0.5)), 0.5, "no")
    assert replace(row, mean=0.34).met == "mean only"


def test_the_best_baseline_is_each_settings_own():
    row = _row(claims.ours(SWEEP), "load: ours (rank-exact) over each setting's best baseline (batch-max)")
    assert (row.extreme, row.met) == (1.25, "yes")


def test_equal_kernels_are_judged_apart():
    row = _row(claims.ablation(SWEEP), "load: ours (rank-exact) over loraserve (rank-exact)")
    assert (row.extreme, row.met) == (pytest.approx(40 / 44), "no")
    assert _row(claims.ablation(SWEEP), "load: ours (batch-max) over loraserve (batch-max)").extreme == 1.125


def test_ours_with_one_part_exchanged_is_held_against_ours_and_is_no_baseline():
    with_part = replace(
        SWEEP, limits=(*SWEEP.limits, limit(38.0, system="ours+store"), limit(99.0, system="ours+store", **PADDED))
    )
    row = _row(claims.parts(with_part), "load: ours+store over ours (rank-exact)")
    assert (row.extreme, row.met) == (38 / 40, "-")
    assert _row(claims.parts(with_part), "load: ours+store over ours (batch-max)").extreme == 99 / 36
    assert claims.ours(with_part) == claims.ours(SWEEP)
    assert claims.parts(SWEEP) == []


def test_ours_is_held_against_what_a_clairvoyant_placement_bears_and_a_bound_is_reported():
    row = _row(claims.ours(SWEEP), "load: ours over a clairvoyant placement")
    assert (row.extreme, row.met) == (pytest.approx(40 / 42), "yes")
    assert _row(claims.ours(SWEEP), "load: a clairvoyant placement over loraserve").extreme == 42 / 32
    row = _row(claims.ours(SWEEP), "load: ours over a bound that knows no queues")
    assert (row.extreme, row.met) == (0.5, "-")


def test_sweep_that_knows_no_clairvoyant_placement_says_nothing_of_it(tmp_path):
    old = replace(SWEEP, bounds=tuple(replace(one, unburdened_rate=math.nan) for one in SWEEP.bounds))
    sweeps.write(old, tmp_path / "sweep.json")
    row = _row(claims.ours(sweeps.read(tmp_path / "sweep.json")), "load: ours over a clairvoyant placement")
    assert math.isnan(row.mean)


def test_trials_are_held_against_their_own_goal():
    row = _row(claims.ours(SWEEP), "P95 TTFT, ours: a lost host")
    assert (row.extreme, row.met) == (1.5, "no")


def test_up_to_is_of_the_best_setting():
    row = _row(claims.reproduction(SWEEP), "load: loraserve over contiguous")
    assert (row.extreme, row.met) == (2.0, "yes")


def test_ttft_is_compared_at_the_same_load_within_the_slo():
    assert _row(claims.reproduction(SWEEP), "P95 TTFT: contiguous over loraserve").extreme == 5.0


def test_hosts_are_compared_for_the_same_load():
    row = _row(claims.reproduction(SWEEP), "hosts: loraserve over contiguous")
    assert (row.extreme, row.where, row.met) == (0.5, "zipf, 10 s, 32/s", "yes")


def test_interference_is_reproduced_at_the_load_where_it_is_largest():
    trials = tuple(
        Trial(case=case(**PADDED), rate=rate, disturbance=claims.INTERFERENCE, calm_s=1.0, disturbed_s=later_s)
        for rate, later_s in ((4.0, 1.2), (8.0, 1.9))
    )
    row = _row(claims.reproduction(Sweep(facts={}, trials=trials)), "P95 TTFT of rank 8")
    assert (row.extreme, row.where, row.met) == (1.9, "zipf, 10 s, 8/s", "yes")


def test_loads_are_means_over_seeds():
    sweep = Sweep(facts={}, limits=(limit(10.0), limit(20.0, seed=1)))
    assert claims.loads(sweep, "ours", "rank-exact") == {("zipf", 10.0): 15.0}
    assert sweep_tables.loads(sweep, 10.0) == [("setting", "ours"), ("zipf", "15.0 (10.0 … 20.0)")]


def test_what_a_sweep_does_not_say_has_no_verdict():
    row = _row(claims.ours(Sweep(facts={})), "adapter bytes")
    assert claims.cells(row) == (row.claim, "-", "-", "≤ 0.35, mean and worst", "-")


def test_geometric_mean_of_a_zero_is_zero_and_of_nothing_unknown():
    assert claims.geometric_mean([2.0, 8.0]) == 4.0
    assert claims.geometric_mean([0.0, 8.0]) == 0.0
    assert math.isnan(claims.geometric_mean([]))


def test_tables_show_each_system_under_its_own_kernels():
    tables = {heading: table for heading, _, table in sweep_tables.headed(SWEEP)}
    assert tables["Most load with P95 TTFT ≤ 10 s"] == [
        ("setting", "ours", "loraserve", "contiguous"),
        ("zipf", "40.0", "32.0", "16.0"),
        ("bursts", "45.0", "30.0", "-"),
    ]
    assert tables["Hosts needed"][1] == ("zipf", "32/s", "10 s", "3", "4", "8", "-")
