"""Runs written and read back."""

import json
from dataclasses import replace

import pytest

from benchmarks.outcomes import files
from benchmarks.outcomes.statistics import summary
from tests.benchmarks.outcomes.made import OUTCOMES, SLO, run


def test_json_brings_back_everything_but_the_outcomes(tmp_path):
    made = run()
    path = files.write(made, summary(made, SLO), tmp_path / "new", "one")
    assert files.read(path) == (files.Result(run=replace(made, outcomes=()), summary=summary(made, SLO)),)


def test_csv_brings_back_the_outcomes(tmp_path):
    files.write(run(), summary(run(), SLO), tmp_path, "one")
    assert files.read_outcomes(tmp_path / "one.csv") == OUTCOMES


def test_json_is_standard_and_says_what_follows(tmp_path):
    path = files.write(run(), summary(run(), SLO), tmp_path, "one")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(path.read_text(), parse_constant=refuse)["runs"][0]["summary"]
    assert found["tail_ttft_s"] is None
    assert found["derived"]["request_throughput"] == 0.3


def test_seeds_share_a_file_and_have_a_csv_each(tmp_path):
    results = [files.Result(run=run(seed=seed), summary=summary(run(), SLO)) for seed in (0, 1)]
    path = files.write_all(results, tmp_path, "some")
    assert [one.run.facts["seed"] for one in files.read(path)] == [0, 1]
    assert {file.name for file in tmp_path.iterdir()} == {"some.json", "some.csv", "some-1.csv"}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"kind": "sweep"}', '{"kind": "runs", "runs": []}', '{"kind": "runs", "runs": [{}]}']
)
def test_other_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other.json holds no runs .*; write it with"):
        files.read(path)


def test_other_tables_are_refused_by_name(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other.csv holds no outcomes .*; its columns are due_s"):
        files.read_outcomes(path)
