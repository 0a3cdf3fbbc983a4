"""What counts as a failed request, and when a goal is met."""

import json
from types import SimpleNamespace

from benchmarks.fault_load import Outcome
from benchmarks.fault_trials import Case, Row, report


def ended(code="OK", words="", host=""):
    return Outcome(adapter="pirate", started_s=1.0, ended_s=2.0, code=code, words=words, host=host)


def counted(*outcomes, victim=""):
    trials = SimpleNamespace(rows=[])
    case = Case("killed", trials, list(outcomes))
    case.victim = victim
    case.count(may_fail=False)
    return {row.what: row.value for row in trials.rows}


def test_streams_that_a_struck_host_had_begun_are_no_failures():
    found = counted(ended("ABORTED", "host a was lost after 3 replies; ask again"), ended(), victim="a")
    assert (found["its streams cut"], found["failed requests"], found["answered requests"]) == (1, 0, 1)


def test_streams_of_other_hosts_that_end_are_failures():
    found = counted(ended("ABORTED", "host b was lost after 3 replies; ask again"), ended(), victim="a")
    assert (found["its streams cut"], found["failed requests"], found["answered requests"]) == (0, 1, 1)


def test_the_worst_round_decides_whether_a_goal_is_met(tmp_path, capsys):
    rows = [Row(case="killed", what="seen", value=value, goal=3.0) for value in (1.0, 4.0, 2.0)]
    report(rows, {}, tmp_path / "faults.json")
    (row,) = json.loads((tmp_path / "faults.json").read_text())["rows"]
    assert (row["value"], row["high"], row["is_met"]) == (2.0, 4.0, False)
    assert "NO" in capsys.readouterr().out
