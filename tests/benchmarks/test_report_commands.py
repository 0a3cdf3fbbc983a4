"""The commands that sweep, compare and report, at toy size."""

import json

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.outcomes import files, sweeps
from benchmarks.outcomes.statistics import summary
from tests.benchmarks.outcomes.made import SLO, run
from tests.benchmarks.outcomes.made_sweep import SWEEP


def _invoked(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def _written(folder, name, **what):
    return files.write(run(**what), summary(run(**what), SLO), folder, name)


def test_compare_says_what_changed(tmp_path):
    done = _invoked("compare", _written(tmp_path, "a"), _written(tmp_path, "b", system="loraserve"))
    assert done.exit_code == 0
    assert "system: ours -> loraserve" in done.output


def test_compare_refuses_unlike_runs_in_one_line(tmp_path):
    done = _invoked("compare", _written(tmp_path, "a"), _written(tmp_path, "b", model="large"))
    assert done.exit_code == 1
    assert done.output.startswith("error: the runs differ in model: tiny and large; compare runs that differ in")
    assert done.output.count("\n") == 1


def test_report_of_a_folder_prints_the_tables_of_its_sweeps(tmp_path):
    sweeps.write(SWEEP, tmp_path / "sweep.json")
    done = _invoked("report", "--results", tmp_path)
    assert done.exit_code == 0
    assert "| zipf    | 40.0 | 32.0      | 16.0       |" in done.output
    assert "Printed by `python -m benchmarks sweep`." in done.output


def test_report_of_an_empty_folder_names_the_commands_that_fill_it(tmp_path):
    done = _invoked("report", "--results", tmp_path)
    assert done.exit_code == 1
    assert "python -m benchmarks engine" in done.output
    assert "python -m benchmarks sweep" in done.output


def test_report_of_a_file_writes_its_page_and_pictures(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need it")
    done = _invoked("report", _written(tmp_path, "one"), "--out", tmp_path / "pages")
    assert done.exit_code == 0
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {
        "one.html",
        "one-ranks.png",
        "one-placements.png",
    }


_TOY = ("--duration-s", 10, "--hosts", 2, "--seeds", 1, "--slo-s", 2, "--resolution", 1, "--settings", "zipf")


def test_sweep_goes_on_where_it_was(tmp_path):
    flags = (
        "sweep",
        *_TOY,
        "--systems",
        "ours",
        "--kernels",
        "rank-exact",
        "--store",
        tmp_path / "store",
        "--out",
        tmp_path,
    )
    first = _invoked(*flags)
    assert first.exit_code == 0, first.output
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.json")}
    before = json.loads((tmp_path / "sweep.json").read_text())
    again = _invoked(*flags)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.json")} == stored
    assert json.loads((tmp_path / "sweep.json").read_text())["points"] == before["points"]
    assert again.exit_code == 0
    assert {one["disturbance"] for one in before["trials"]} > {"a host lost at the peak"}


def _points(folder, own, *flags):
    """What a sweep of one paced setting finds, by what the settings file says of its pace."""
    folder.mkdir()
    (folder / "mine.toml").write_text(f'[mine]\nworkload = "day"\n{own}\n')
    few = ("--hosts", 1, "--systems", "ours", "--kernels", "rank-exact", "--no-trials", "--no-curves")
    files_of = ("--settings-file", folder / "mine.toml", "--store", folder / "store", "--out", folder)
    done = _invoked("sweep", *_TOY, "--settings", "mine", *few, *files_of, *flags)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "sweep.json").read_text())["points"]


def test_sweep_plays_a_setting_at_its_own_pace_unless_told_another(tmp_path):
    own, told = _points(tmp_path / "own", "pace = 900"), _points(tmp_path / "told", "pace = 5", "--pace", 900)
    assert own == told


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--systems", "nobody"), "'nobody'; write some of ours, "),
        (("--settings", "nothing"), "'nothing'; write some of loraserve-"),
        (("--kernels", "fast"), "'fast'; write some of rank-exact, "),
        (("--hardware", "toaster"), "'toaster'; write some of "),
        (("--slo-s", "fast"), "'fast' is no list of numbers above 0; write them with commas"),
    ],
)
def test_sweep_refuses_names_that_it_does_not_know(flags, said):
    done = _invoked("sweep", *flags)
    assert done.exit_code == 2
    assert said in done.output
