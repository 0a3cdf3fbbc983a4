"""Without a GPU the command says what it needs; with counts alone it answers anywhere."""

import pytest
from click.testing import CliRunner

from benchmarks.commands_kernels import kernels
from benchmarks.kernels.run import Options, Report, known


def ran(*flags):
    return CliRunner().invoke(kernels, flags)


def test_without_a_gpu_it_says_in_one_line_what_it_needs():
    done = ran()
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "needs a Hopper GPU (H100 or H200)" in done.stderr


def test_estimates_need_no_gpu():
    done = ran("--estimate")
    assert done.exit_code == 0
    assert "nothing is measured" in done.stdout


def test_an_unknown_case_is_bad_usage():
    done = ran("--cases", "decode-r9")
    assert done.exit_code == 2
    assert "decode-r9; write all, or some of decode-r8," in done.stderr


def test_quick_leaves_most_cases_out(tmp_path):
    common = {"has_peers": False, "peers_dir": tmp_path, "peers_python": tmp_path, "seed": 0, "out": tmp_path}
    quick, whole = (Options(names=known("all"), is_quick=is_quick, **common) for is_quick in (True, False))
    assert 0 < len(quick.cases) < len(whole.cases)


@pytest.mark.parametrize(
    ("name", "case", "form"),
    [
        ("decode-mixed/csgmv, split 8", "decode-mixed", "csgmv, split 8"),
        ("attention-64x4k", "attention-64x4k", "mosaic"),
    ],
)
def test_every_outcome_is_on_disk_at_once(tmp_path, name, case, form):
    report = Report(path=tmp_path / "kernels.json", facts={"seed": 0})
    report.take(name, {"us": 2.0})
    assert report.path.exists()
    assert report.results[case][form] == {"us": 2.0}
