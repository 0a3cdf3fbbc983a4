"""Results become tables, and README.md changes between its markers only."""

import json

import click
import pytest

from benchmarks import report
from benchmarks.samples import Claim, judged

FACTS = {
    "model": "tiny",
    "dtype": "bfloat16",
    "cores": 2,
    "cpu": "a processor",
    "batch": 16,
    "new_tokens": 64,
    "slow_new_tokens": 8,
    "rounds": 1,
    "kernels": "xla",
    "seed": 0,
    "versions": {"jax": "0.0"},
    "command": "python -m benchmarks engine",
}


@pytest.fixture
def results(tmp_path):
    claim = Claim(case="a case", unit="tok/s", ours="mine", reference="theirs", goal=1.5)
    row = judged(claim, {"mine": [400.0], "theirs": [200.0]})
    (tmp_path / "engine-cpu.json").write_text(json.dumps(FACTS | {"claims": [row]}))
    return tmp_path


def test_table_has_a_row_for_each_claim(results):
    row = report.engine_section(results).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "a case",
        "400 tok/s",
        "200",
        "2 (2 … 2)",
        "≥ 1.5",
        "yes",
    ]


def test_readme_changes_between_its_markers_only(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- engine results -->\nold\n<!-- /engine results -->\nafter\n")
    report.write_readme(readme, results)
    text = readme.read_text()
    assert text.startswith("before\n<!-- engine results -->\n| case")
    assert text.endswith("`.\n<!-- /engine results -->\nafter\n")
    assert "old" not in text


def test_readme_without_markers_is_refused_in_words(results, tmp_path):
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(click.ClickException, match="put them where the table belongs"):
        report.write_readme(tmp_path / "README.md", results)


def test_folder_without_results_names_the_command_that_makes_them(tmp_path):
    with pytest.raises(click.ClickException, match="python -m benchmarks engine"):
        report.engine_section(tmp_path)
