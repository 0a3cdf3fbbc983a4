"""`lorajax profile` as its user meets it: one run over a tiny model, and what is refused at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster import operating_points
from cluster.operating_points import DEFAULT
from lorajax.cli import main
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
CONFIG = """
[model]
path = "model"
dtype = "float32"
[engine]
kv_bytes = "4MiB"
adapter_bytes = "2MiB"
kernels = "xla"
max_sequences = 8
max_batch_tokens = 8
interleaved_tokens = 6
[slo]
ttft_p95_s = 70
tbt_p95_s = 30
"""
LOAD = ("--quick", "--ranks", "8,24", "--prompt-tokens", "8", "--new-tokens", "4")
OVER_THE_FILE = ("--max-sequences", "2", "--tbt-p95-s", "50")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model and a cluster.toml that names it."""
    folder = tmp_path_factory.mktemp("profile")
    tiny.write_model(folder / "model", "llama", seed=1)
    (folder / "cluster.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def table(folder, pytestconfig):
    """The words of a run that writes `points.json`, line by line."""
    files = ("--config", folder / "cluster.toml", "--out", folder / "points.json")
    command = (sys.executable, "-m", "lorajax", "profile", *files, *LOAD, *OVER_THE_FILE)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("serve"))}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def refused(*args):
    """Exit code and words of a run that measures nothing."""
    result = CliRunner().invoke(main, ("profile", *args), prog_name="lorajax")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.exit_code, result.stderr


def test_file_holds_the_base_and_every_rank(table, folder):
    assert operating_points.read(folder / "points.json").tokens_per_s.keys() == {0, 8, 24}


def test_table_has_a_row_for_each_rank_and_the_mix(table):
    rows = [line.split("   ")[0] for line in table if " ms " in line]
    assert rows == ["base", "rank 8", "rank 24", "rank 8 + rank 24"]


def test_target_is_that_of_the_file_where_no_flag_says_otherwise(table):
    assert table[0].strip() == "sustained within p95 TTFT 70 s and p95 TBT 50 s"


def test_flag_goes_before_the_file(table):
    concurrencies = {int(line.split()[-1]) for line in table if " ms " in line}
    assert max(concurrencies) <= 4  # twice --max-sequences; the file's would allow 16


def test_file_that_is_something_else_is_not_written_over(folder):
    code, words = refused("--config", folder / "cluster.toml", "--out", folder / "cluster.toml")
    assert (code, "holds no operating points; name another file" in words) == (2, True)
    assert (folder / "cluster.toml").read_text() == CONFIG


def test_operating_points_may_be_written_over_and_bad_ranks_are_named(folder, tmp_path):
    operating_points.write(tmp_path / "points.json", DEFAULT)
    code, words = refused("--config", folder / "cluster.toml", "--out", tmp_path / "points.json", "--ranks", "8")
    assert (code, words.startswith("error: --ranks is (8,); name two or more")) == (2, True)


def test_folder_that_is_not_there_is_refused_before_anything_is_measured(folder, tmp_path):
    code, words = refused("--config", folder / "cluster.toml", "--out", tmp_path / "none" / "points.json")
    assert (code, "no file can be made in" in words) == (2, True)


def test_ranks_that_are_no_numbers_are_refused(folder):
    code, words = refused("--config", folder / "cluster.toml", "--ranks", "8;16")
    assert (code, "such as 8,16,128" in words) == (2, True)
