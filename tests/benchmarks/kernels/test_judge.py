"""Goals are judged by what they say, and what was not measured is not met."""

import pytest

from benchmarks.kernels.cases import CASES
from benchmarks.kernels.judge import Judge, failures


def judged(results):
    judge = Judge(results=results, copy_bytes_per_s=4e12, matmul_flop_per_s=8e14)
    return {(goal.case, goal.what): goal for goal in judge.goals()}


def test_times_are_described_beside_bytes_and_ours():
    found = {"mosaic+add": {"us": 100.0}, "vllm": {"us": 300.0}, "csgmv": {"error": "no"}}
    judge = Judge(results={"decode-mixed": found}, copy_bytes_per_s=4e12, matmul_flop_per_s=8e14)
    described = judge.described(CASES[2])
    assert described["vllm"]["over_ours"] == 3.0
    assert described["vllm"]["of_copy"] == pytest.approx(described["least"]["floor_us"] / 300.0)
    assert described["csgmv"] == {"error": "no"}


def test_nothing_measured_is_nothing_met():
    assert {goal.is_met for goal in judged({}).values()} == {None}


def test_the_best_form_of_a_peer_is_the_one_that_counts():
    found = {"mosaic+add": {"us": 10.0}, "vllm": {"us": 90.0}, "vllm tuned": {"us": 30.0}, "mosaic": {"us": 1.0}}
    goal = judged({"decode-mixed": found})["decode-mixed", "times as fast as vllm"]
    assert (goal.value, goal.is_met) == (3.0, True)


def test_a_form_that_differs_from_the_reference_has_no_time():
    found = {"mosaic+add": {"us": 10.0}, "csgmv": {"error": "differs from the reference by 1"}}
    assert judged({"decode-mixed": found})["decode-mixed", "times as fast as sglang"].is_met is None
    assert failures({"decode-mixed": found}) == ["decode-mixed, csgmv: differs from the reference by 1"]


@pytest.mark.parametrize(("us", "is_met"), [(30.0, True), (40.0, False)])
def test_launches_are_counted_over_the_floor(us, is_met):
    goal = judged({"decode-skewed": {"mosaic": {"us": us}}})["decode-skewed", "µs over the floor, of each launch"]
    assert goal.is_met is is_met


def test_the_step_is_judged_by_base_and_adapter_bytes_together():
    step = {
        "base": {"us": 4000.0, "weight_bytes": 15_000_000_000},
        "adapters": {"us": 6000.0, "lora_bytes": 8_000_000_000},
    }
    goals = judged({"step-llama-3-8b": step})
    assert goals["step-llama-3-8b", "base's time over its weights' bytes"].value == pytest.approx(4000 / 3750)
    assert goals["step-llama-3-8b", "time over base's and the adapters' bytes"].value == pytest.approx(1.0)
