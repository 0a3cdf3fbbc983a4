"""Results become tables, and README.md changes between its markers only."""

import json
from dataclasses import replace

import click
import pytest

from benchmarks import report
from benchmarks.outcomes import sweeps
from benchmarks.samples import Claim, judged
from tests.benchmarks.outcomes.made_sweep import SWEEP

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


def test_fidelity_stands_figure_by_figure(tmp_path):
    row = {"system": "ours", "metric": "p95 TTFT", "real": 0.2, "simulated": 0.19, "difference": -0.05}
    result = FACTS | {"hosts": 3, "goal": 0.15, "is_met": True, "order": {"pairs": 2, "alike": 2}, "rows": [row]}
    (tmp_path / "fidelity.json").write_text(json.dumps(result))
    lines = report.fidelity_section(tmp_path).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "ours",
        "p95 TTFT",
        "200 ms",
        "190 ms",
        "-5.0%",
    ]
    assert "met: yes" in lines[-1]


def test_every_marked_section_is_written(results, tmp_path):
    sweeps.write(SWEEP, tmp_path / "sweep.json")
    readme = tmp_path / "README.md"
    readme.write_text("".join(f"<!-- {name} results -->\n<!-- /{name} results -->\n" for name in ("sweep", "engine")))
    report.write_readme(readme, results)
    assert readme.read_text().index("LoRAServe's claims") < readme.read_text().index("| a case")


def test_one_sweep_is_marked_by_the_name_of_its_file(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- sweep-2s results -->\n<!-- /sweep-2s results -->\n")
    with pytest.raises(
        click.ClickException, match=r"sweep-2s.json; `python -m benchmarks sweep --name sweep-2s` writes"
    ):
        report.write_readme(readme, tmp_path)
    sweeps.write(SWEEP, tmp_path / "sweep-2s.json")
    sweeps.write(replace(SWEEP, limits=()), tmp_path / "sweep.json")
    report.write_readme(readme, tmp_path)
    assert readme.read_text().count("Most load with P95 TTFT") == 1
    assert "**Trials.**" not in readme.read_text()


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_file_that_is_no_whole_result_is_named(tmp_path, text):
    (tmp_path / "engine-cpu.json").write_text(text)
    with pytest.raises(ValueError, match=r"engine-cpu.json is no whole result .*; write it again"):
        report.sections(tmp_path)
