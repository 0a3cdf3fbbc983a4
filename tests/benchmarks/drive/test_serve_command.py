"""`python -m benchmarks serve` from its flags to its files, against a scripted server on loopback."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import click
import grpc
import numpy as np
from click.testing import CliRunner

from benchmarks.commands_serve import _warn, serve
from benchmarks.outcomes import files
from checkpoints import peft
from checkpoints.base import read_spec
from lorajax.cli_types import EXIT_INTERRUPTED
from tests import tiny
from tests.cluster.scripted_server import FINAL, answer, fail, serving, tokens

ROOT = Path(__file__).parents[3]
TOY = ("--ranks", "12", "--adapters", "2", "--rate", "40", "--duration-s", "0.2", "--adapters-from-server")
ANSWER = answer(tokens("a", "b"), tokens("c"), FINAL)


def command(*flags):
    return CliRunner().invoke(serve, [*flags], standalone_mode=False)


def test_a_run_is_told_and_written(tmp_path):
    with serving(ANSWER) as server:
        found = command("--target", server.target, "--out", str(tmp_path), *TOY)
    assert f"{'Successful requests:':<40} {len(server.requests)}" in found.output
    (result,) = files.read(tmp_path / "serve.json")
    assert (result.summary.num_requests, result.summary.output_tokens) == (
        len(server.requests),
        3 * len(server.requests),
    )
    assert len(files.read_outcomes(tmp_path / "serve.csv")) == len(server.requests)
    assert (tmp_path / "serve.html").read_text().startswith("<!doctype html>")


def test_the_service_level_is_part_of_what_is_told(tmp_path):
    with serving(ANSWER) as server:
        command("--target", server.target, "--out", str(tmp_path), "--slo-ttft-s", "5", *TOY)
    (result,) = files.read(tmp_path / "serve.json")
    assert (result.summary.slo.ttft_s, result.summary.attainment) == (5.0, 1.0)


def test_a_name_keeps_the_runs_of_servers_apart(tmp_path):
    with serving(ANSWER) as server:
        command("--target", server.target, "--out", str(tmp_path), "--name", "vLLM 0.11/lora", *TOY)
    (result,) = files.read(tmp_path / "serve-vLLM-0.11-lora.json")
    assert result.run.system == "vLLM 0.11/lora"


def test_a_run_without_one_success_is_told_and_exits_1(tmp_path):
    with serving(fail(grpc.StatusCode.UNAVAILABLE, "gone")) as server:
        found = command("--target", server.target, "--out", str(tmp_path), *TOY)
    assert (found.return_value, (tmp_path / "serve.json").exists()) == (1, True)


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    with serving(ANSWER) as server:
        target = server.target
    assert "does not say what it serves" in str(command("--target", target, "--out", str(tmp_path), *TOY).exception)


def test_folder_that_cannot_be_made_is_told_before_anything_is_sent(tmp_path):
    (tmp_path / "file").touch()
    with serving(ANSWER) as server:
        found = command("--target", server.target, "--out", str(tmp_path / "file" / "folder"), *TOY)
    assert "cannot be written" in str(found.exception)
    assert not server.requests


def test_answers_without_a_count_of_tokens_are_told():
    sent = SimpleNamespace(words={}, num_clipped=0, num_short=0, num_uncounted=3, is_whole=True)
    with contextlib.redirect_stderr(io.StringIO()) as told:
        _warn(sent, None)
    assert "count messages instead of tokens: 3" in told.getvalue()


def test_two_servers_are_one_too_many():
    found = command("--target", "127.0.0.1:1", "--url", "http://127.0.0.1:2", *TOY)
    assert isinstance(found.exception, click.UsageError)


def test_ctrl_c_tells_what_there_is_and_exits_130(tmp_path):
    has_come, may_go = threading.Event(), threading.Event()

    def hold(context):
        has_come.set()
        may_go.wait()
        return iter(())

    with serving(hold) as server:
        flags = ("--target", server.target, "--out", str(tmp_path), *TOY, "--duration-s", "60")
        with subprocess.Popen(
            (sys.executable, "-m", "benchmarks", "serve", *flags),
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert has_come.wait(60)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        may_go.set()
    assert process.returncode == EXIT_INTERRUPTED
    assert "of which NOT_SENT:" in output
    (result,) = files.read(tmp_path / "serve.json")
    assert not result.run.facts["is_whole"]


def test_adapters_that_are_made_are_those_of_the_workload_and_fit_the_model(tmp_path):
    tiny.write_model(tmp_path / "model", "llama", seed=0)
    flags = ("--model", str(tmp_path / "model"), "--ranks", "8,16", "--adapters", "2")
    found = command("--make-adapters", str(tmp_path / "made"), *flags)
    assert "--lora-modules" in found.output
    spec = read_spec(tmp_path / "model")
    made = dict(line.split("=") for line in (tmp_path / "made" / "adapters").read_text().splitlines())
    assert sorted(peft.read(Path(folder), spec, np.dtype("float32")).spec.rank for folder in made.values()) == [8, 16]
