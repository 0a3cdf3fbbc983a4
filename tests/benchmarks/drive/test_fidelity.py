"""What is compared, and how systems rank. The command itself runs at toy size."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.drive.fidelity import Row, order_of, shifted
from benchmarks.drive.fidelity_rig import Plan, Seen, first_and_rest, setting_of
from benchmarks.outcomes.records import Outcome, Run
from cluster import operating_points
from cluster.step_log import LoggedStep
from tests.benchmarks.simulator.rig import hardware

ROOT = Path(__file__).parents[3]


def rows(**figures):
    """p95 TTFT of systems: (real, simulated), of one round."""
    return [Row(system=name, metric="p95 TTFT", reals=[one], simulateds=[two]) for name, (one, two) in figures.items()]


def test_one_disturbed_round_of_three_changes_nothing():
    row = Row(system="a", metric="p95 TTFT", reals=[9.0, 2.0, 2.1], simulateds=[2.1, 2.2, 7.0])
    assert (row.real, row.simulated) == (2.1, 2.2)


def test_a_difference_is_a_part_of_the_real_figure():
    assert rows(a=(2.0, 2.5))[0].difference == 0.25


def test_systems_that_are_near_each_other_in_reality_may_change_places():
    order = order_of(rows(a=(1.0, 1.2), b=(1.1, 1.0)))
    assert (order.real, order.simulated, order.pairs) == (("a", "b"), ("b", "a"), 0)


def test_pairs_that_are_apart_are_told_with_those_in_the_same_order():
    order = order_of(rows(a=(1.0, 3.0), b=(2.0, 2.0), c=(4.0, 9.0)))
    assert (order.pairs, order.alike) == (3, 2)


def plan(**changes):
    setting = setting_of(rate=50.0, scale=0.1, adapters=10, seed=3)
    rest = {"duration_s": 8.0, "warm_s": 2.0, "calibration_s": 1.0, "seed": 3}
    return Plan(**{"bed": SimpleNamespace(), "setting": setting} | rest | changes)


def test_adapters_keep_their_ranks_when_requests_are_drawn_anew():
    first = plan().workload()
    second = replace(plan(), seed=4).workload()
    assert first.ranks == second.ranks
    assert first.arrivals != second.arrivals


def test_the_beginning_is_not_compared():
    outcomes = tuple(
        Outcome(due_s=at_s, adapter="", rank=0, prompt_tokens=1, output_tokens=1, sent_s=at_s)
        for at_s in (0.0, 1.9, 2.0, 9.0)
    )
    run = Run(system="x", workload="w", facts={}, outcomes=outcomes, span_s=10.0)
    compared = plan().compared(run)
    assert ([one.due_s for one in compared.outcomes], compared.span_s) == ([2.0, 9.0], 8.0)


def test_steps_belong_to_the_workload_in_which_they_began():
    driven = [SimpleNamespace(sent=SimpleNamespace(began_s=began_s)) for began_s in (10.0, 20.0, 30.0)]
    log = [LoggedStep(began_s, began_s + 0.1, 0, ()) for began_s in (11.0, 19.9, 20.0, 35.0)]
    seen = Seen(driven=driven, others=0.0, adapters=(), logs={"h": log}, config=Path())
    first, rest = first_and_rest(seen)
    assert (first.driven, first.logs) == (driven[:1], {"h": log[:2]})
    assert (rest.driven, rest.logs) == (driven[1:], {"h": log[2:]})


def test_what_steps_took_begins_elsewhere_on_every_host():
    found = shifted(hardware(jitter=((1.0, 2.0, 3.0, 4.0), (5.0, 6.0))), 0.5)
    assert found.jitter == ((3.0, 4.0, 1.0, 2.0), (6.0, 5.0))


def ran(out, command, *flags):
    line = (sys.executable, "-m", "benchmarks", command, "--quick", "--systems", "ours", "--out", str(out), *flags)
    subprocess.run(line, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, check=True, timeout=240, capture_output=True)
    return json.loads((out / f"{command}.json").read_text())


@pytest.mark.multihost
@pytest.mark.slow
def test_fidelity_runs_on_real_clusters(tmp_path):
    found = ran(tmp_path, "fidelity")
    assert [row["metric"] for row in found["rows"]] == ["median TTFT", "p95 TTFT", "tokens/s"]
    assert all(row["real"] > 0 and row["simulated"] > 0 for row in found["rows"])


@pytest.mark.multihost
@pytest.mark.slow
def test_policies_run_on_real_clusters(tmp_path):
    operating_points.write(points := tmp_path / "points.json", operating_points.DEFAULT)
    found = ran(tmp_path, "policies", "--points", str(points), "--slo-s", "30")
    assert [len(levels) for levels in found["levels"].values()] == [2]
