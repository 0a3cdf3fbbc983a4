"""`python -m benchmarks simulate` at toy size, as a user would type it."""

import json

import pytest
from click.testing import CliRunner

from benchmarks.commands_simulate import simulate
from benchmarks.simulator import cluster

TOY = ("--hosts", "2", "--adapters", "5", "--rate", "1", "--duration-s", "20", "--slo-ttft-s", "10")


def invoked(*words):
    return CliRunner().invoke(simulate, words)


def test_each_system_is_shown_and_written(tmp_path):
    said = invoked(*TOY, "--system", "ours,loraserve", "--seeds", "2", "--out", str(tmp_path))
    assert said.exit_code == 0, said.output
    for system in ("ours", "loraserve"):
        found = json.loads((tmp_path / f"simulate-{system}.json").read_text())
        assert len(found["runs"]) == 2
        assert (tmp_path / f"simulate-{system}.html").exists()
    assert said.output.count("Successful requests") == 4


def test_seeds_that_are_finished_are_told_where_it_is_stopped(tmp_path, monkeypatch):
    whole, told = cluster.simulate, []

    def stopped_in_the_second(*asked):
        told.append(asked)
        if len(told) == 2:
            raise KeyboardInterrupt
        return whole(*asked)

    monkeypatch.setattr(cluster, "simulate", stopped_in_the_second)
    assert invoked(*TOY, "--seeds", "3", "--out", str(tmp_path)).exit_code == 1
    assert len(json.loads((tmp_path / "simulate-ours.json").read_text())["runs"]) == 1


def test_faults_can_be_said(tmp_path):
    faults = ("--lose", "0@5-10", "--cut", "1@8-12", "--forecast", "0.5,1.5", "--deadline-s", "8", "--token-times")
    said = invoked(*TOY, *faults, "--placements", "--kernels", "rank-exact", "--out", str(tmp_path), "--name", "odd")
    assert said.exit_code == 0, said.output
    assert (tmp_path / "odd.json").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--system", "theirs"), "write some of ours"),
        (("--hardware", "abacus"), "--hardware abacus is no preset"),
        (("--kernels", "square"), "--kernels square are not known"),
        (("--lose", "7@3"), "--lose name host 7; there are 0 … 1"),
        (("--lose", "x"), "is not HOST@SECONDS"),
        (("--forecast", "much"), "is not FACTOR"),
    ],
)
def test_a_mistake_names_its_flag(words, hint):
    said = invoked(*TOY, *words)
    assert said.exit_code == 2
    assert hint in " ".join(said.output.split())
