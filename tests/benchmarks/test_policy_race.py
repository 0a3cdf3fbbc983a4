"""What rounds of a race come to, without running one."""

import json
import math

import pytest

from benchmarks.policy_race import Level, _as_json, _merged


def _level(p95_s, **failed):
    return Level(
        rate=40.0, p95_s=p95_s, median_s=0.1, num_requests=10, failed=failed, held_bytes=100.0, is_within=p95_s <= 0.5
    )


@pytest.mark.parametrize(("p95s", "is_within"), [((0.2, 0.4, 9.0), True), ((0.2, 0.6, math.inf), False)])
def test_level_is_within_where_its_median_round_is(p95s, is_within):
    assert _merged([_level(p95_s) for p95_s in p95s], 0.5).is_within is is_within


def test_failures_of_all_rounds_are_written():
    merged = _merged([_level(math.inf, UNAVAILABLE=2), _level(math.inf, UNAVAILABLE=1, ABORTED=4)], 0.5)
    found = json.loads(json.dumps(_as_json(merged), allow_nan=False))
    assert (found["failed"], found["num_requests"], found["p95_s"]) == ({"UNAVAILABLE": 3, "ABORTED": 4}, 20, None)
