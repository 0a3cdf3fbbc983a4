"""Pages and pictures that are made of results."""

import re
import struct

import pytest

from benchmarks.outcomes import files, pages, sweeps
from benchmarks.outcomes.statistics import summary
from tests.benchmarks.outcomes.made import SLO, run
from tests.benchmarks.outcomes.made_sweep import SWEEP

pictures = pytest.importorskip(
    "benchmarks.outcomes.pictures", reason="matplotlib is not installed", exc_type=ImportError
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What is written about two runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    results = [files.Result(run=run(seed=seed), summary=summary(run(), SLO)) for seed in (0, 1)]
    return pages.write(files.write_all(results, folder, "runs"), folder, pictures)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """What is written about a sweep."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.json"
    sweeps.write(SWEEP, path)
    return pages.write(path, path.parent / "new", pictures)


@pytest.mark.parametrize("name", ["runs", "sweep"])
def test_page_needs_nothing_from_elsewhere(request, name):
    page = request.getfixturevalue(name)[0].read_text()
    assert "<script" not in page
    # names of XML's vocabularies are not fetched
    assert set(re.findall(r'https?://[^"<]*', page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r'(src|href)="(?!#|data:)', page)


def test_page_of_runs_has_the_block_a_row_for_each_seed_and_pictures(runs):
    page = runs[0].read_text()
    assert "Total generated tokens:                  9" in page
    assert "<h2>All runs</h2>" in page
    assert page.count("<svg") == 2


def test_page_of_a_sweep_has_the_verdicts(sweep):
    assert "<td>load: ours (rank-exact) over loraserve (batch-max)</td><td>1.37</td>" in sweep[0].read_text()


def test_pictures_of_a_sweep_are_png_files_named_after_it(sweep):
    assert {path.name for path in sweep} == {
        "sweep.html",
        "sweep-loads-10s.png",
        "sweep-ttft-zipf-10s.png",
        "sweep-ranks-zipf-10s-ours.png",
        "sweep-ranks-zipf-10s-loraserve.png",
        "sweep-ranks-zipf-10s-contiguous.png",
        "sweep-hosts-zipf-10s.png",
        "sweep-ablation.png",
    }
    sizes = [struct.unpack(">II", path.read_bytes()[16:24]) for path in sweep[1:]]
    assert min(sizes) > (900, 300)


def test_same_picture_gives_the_same_text():
    once, again = (pictures.svg(pictures.hosts_needed({"ours": {"16 requests/s": [2.0, 3.0]}}, 2.0)) for _ in range(2))
    assert once == again


def test_lines_of_a_picture_differ_without_colour():
    lines = pictures.load_against_ttft({name: [(1.0, 1.0), (2.0, 2.0)] for name in "abcdefg"}, 10.0).axes[0].lines
    shapes = {
        (line.get_marker(), str(line.get_linestyle()))
        for line in lines
        if len(line.get_xdata()) == 2 and line.get_label()[0] != "_"
    }
    assert len(shapes) == 7


def test_axes_have_their_units():
    axes = pictures.load_against_ttft({"ours": [(1.0, 1.0)]}, 10.0).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("load (requests/s)", "95th percentile of TTFT (s)")


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"other.json holds neither runs nor a sweep; name a file of"):
        pages.write(tmp_path / "other.json", tmp_path, pictures)
