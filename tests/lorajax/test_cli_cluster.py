"""`lorajax launch` and its roles as their user meets them."""

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from lorajax.cli import main

ROOT = Path(__file__).resolve().parents[2]
SCHEDULERS = ("LORAJAX_", "LWS_", "SLURM_", "OMPI_", "JOB_COMPLETION_INDEX")
THREE = 'nodes = ["127.0.0.1", "127.0.0.1", "127.0.0.1"]\nreplicas = 6\n'


@pytest.fixture
def config(tmp_path):
    def written(lines=""):
        file = tmp_path / "cluster.toml"
        file.write_text(f'[model]\npath = "base"\n[cluster]\nstate_dir = "state"\n{lines}\n')
        return str(file)

    return written


def run(*args, environment=()):
    unset = {name: None for name in os.environ if name.startswith(SCHEDULERS)}
    return CliRunner().invoke(main, args, env=unset | dict(environment), prog_name="lorajax")


def planned(*args, **options):
    result = run("launch", "--dry-run", "--config", *args, **options)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_dry_run_prints_every_process_and_its_place(config):
    lines = planned(config(THREE), "--node-rank", "1")
    hosts = [line.split("  ")[:3] for line in lines if "host-" in line]
    assert hosts[2:4] == [["node 1", "127.0.0.1", "host-2"], ["node 1", "127.0.0.1", "host-3"]]


def test_dry_run_starts_nothing(config, tmp_path):
    planned(config())
    assert not (tmp_path / "state").exists()


def test_dry_run_says_what_runs_here(config):
    here = [line.split("  ")[2] for line in planned(config(THREE), "--node-rank", "2") if line.endswith("here")]
    assert here == ["host-4", "host-5"]


def test_local_runs_every_node_here(config):
    lines = planned(config(THREE), "--local")
    assert len([line for line in lines if line.endswith("here")]) == 9


def test_node_rank_may_come_from_the_environment(config):
    lines = planned(config(THREE), environment={"LORAJAX_NODE_RANK": "0"})
    assert [line.split("  ")[2] for line in lines if line.endswith("here")][-2:] == ["host-0", "host-1"]


@pytest.mark.parametrize(
    ("lines", "args", "words"),
    [
        ("replica = 2", (), "cluster.replica is not a key of [cluster]; did you mean replicas?"),
        (THREE, (), "add --node-rank R, or --local"),
        (THREE, ("--node-rank", "3"), "--node-rank says node 3, but there is room for 3"),
        (THREE.replace("6", "4"), ("--node-rank", "0"), "4 processes do not divide over 3 nodes"),
    ],
)
def test_bad_plan_is_one_line_and_exit_2(config, lines, args, words):
    result = run("launch", "--dry-run", "--config", config(lines), *args)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert words in result.stderr


def test_taken_port_is_refused_before_anything_starts(config, tmp_path):
    result = run("launch", "--config", config('coordinator = "192.0.2.1:1"\ninsecure = true'))
    assert (result.exit_code, "choose another with cluster.coordinator" in result.stderr) == (2, True)
    assert not (tmp_path / "state").exists()


def test_process_beyond_the_plan_is_refused(config):
    result = run("host", "--config", config(), "--process", "1")
    assert (result.exit_code, "--process 1: the cluster has 1 processes" in result.stderr) == (2, True)


def test_rendezvous_needs_an_address(config):
    result = run("rendezvous", "--config", config())
    assert (result.exit_code, "--address is missing" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", ["launch", "host", "coordinator", "gateway", "rendezvous"])
def test_every_command_has_help(command):
    assert run(command, "--help").stdout.startswith("Usage: ")


def test_doctor_looks_at_the_cluster(config):
    result = run("doctor", "--config", config())
    assert (result.exit_code, "ok      port          127.0.0.1:50051 is free" in result.stdout) == (1, True)


def test_launch_script_passes_its_flags_on(config):
    command = (ROOT / "scripts" / "launch_host.sh", "--config", config(), "--dry-run")
    path = os.pathsep.join((str(Path(os.sys.executable).parent), os.environ["PATH"]))
    result = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("base in bfloat16: 1 replicas x 1 processes x 1 devices on 1 nodes")


def test_launch_without_its_model_starts_nothing_and_names_the_key(config, tmp_path):
    result = run("launch", "--config", config('coordinator = "127.0.0.1:0"'))
    assert (result.exit_code, "model.path is " in result.stderr) == (2, True)
    assert not (tmp_path / "state").exists()


def test_missing_operating_points_name_the_key(config):
    result = run("gateway", "--config", config('[placement]\noperating_points = "no.json"'))
    assert (result.exit_code, "placement.operating_points is " in result.stderr) == (2, True)


def test_line_that_nobody_reads_is_no_failure():
    script = "from lorajax.cli_cluster import _say; _say('READY', err=False)"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run((os.sys.executable, "-c", script), stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
