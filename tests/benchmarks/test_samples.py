"""Ratios are taken within a round, and goals are judged by their medians."""

import pytest

from benchmarks.samples import Claim, judged

CLAIM = Claim(case="a case", unit="tok/s", ours="mine", reference="theirs", goal=2.0)


def test_ratio_is_the_median_of_the_rounds_own_ratios():
    row = judged(CLAIM, {"mine": [2.0, 30.0, 8.0], "theirs": [1.0, 10.0, 2.0]})
    assert row is not None
    assert row["ratio"] == {"low": 2.5, "median": 3.0, "high": 3.5}


def test_reference_of_fewer_rounds_is_compared_with_those_rounds():
    row = judged(CLAIM, {"mine": [2.0, 100.0], "theirs": [1.0]})
    assert row is not None
    assert (row["num_rounds"], row["ours_spread"]["median"], row["ratio"]["median"]) == (1, 2.0, 2.0)


def test_claim_without_a_reference_is_left_out():
    assert judged(CLAIM, {"mine": [1.0]}) is None


@pytest.mark.parametrize(("goal_is", "is_met"), [("at least", False), ("at most", True)])
def test_goal_is_judged_in_its_direction(goal_is, is_met):
    claim = Claim(case="a case", unit="ms", ours="mine", reference="theirs", goal=2.0, goal_is=goal_is)
    row = judged(claim, {"mine": [1.0], "theirs": [1.0]})
    assert row is not None
    assert row["is_met"] is is_met
