"""How a cluster ends, and how a configuration that cannot work is told."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from benchmarks.local_cluster import processes_of
from tests.cluster.rig import on_loop
from tests.multihost import rig

pytestmark = pytest.mark.multihost
_TIMEOUT_S = 60


def start(config, environment, *flags):
    command = (sys.executable, "-m", "lorajax", "launch", "--config", str(config), *flags)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"gateway": "0.0.0.0:1"}, "cluster.gateway: 0.0.0.0 can be reached from other machines"),
        ({"replica": 2}, "cluster.replica is not a key of [cluster]; did you mean replicas?"),
        ({"nodes": ["127.0.0.1"] * 3}, "add --node-rank R, or --local"),
        ({"processes_per_replica": 2}, 'use cluster.transfer = "collective", or one process per replica'),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_2(tmp_path, environment, wrong, words):
    with start(rig.write_config(tmp_path, **wrong), environment) as process:
        out, err = process.communicate(timeout=_TIMEOUT_S)
    assert (process.returncode, out, err.count("\n"), words in err) == (2, "", 1, True), err


def test_a_preloaded_adapter_that_cannot_be_served_ends_the_launch_and_names_itself(folder, environment, tmp_path):
    for name in ("model", "adapters"):
        (tmp_path / name).symlink_to(folder / name)
    config = rig.write_config(tmp_path, replicas=1)
    config.write_text(config.read_text().replace('"adapters/rank4"', '"adapters"'))
    with start(config, environment) as process:
        out, err = process.communicate(timeout=_TIMEOUT_S)
    assert (process.returncode, out, "preload.rank4 = " in err) == (1, "", True), err
    assert "could not start as it was configured" in err
    assert processes_of(config) == []


def test_ready_names_where_the_gateway_answers_openais_http(folder, environment, tmp_path):
    for name in ("model", "adapters"):
        (tmp_path / name).symlink_to(folder / name)
    config = rig.write_config(tmp_path, replicas=1, http="127.0.0.1:0")
    with start(config, environment) as process:
        address = dict(pair.split("=") for pair in process.stdout.readline().split()[1:])["http"]
        asked = {"model": "rank8", "prompt": list(rig.PROMPT), "max_tokens": 4, "logprobs": 1, "ignore_eos": True}
        body = json.dumps(asked).encode()
        call = urllib.request.Request(
            f"http://{address}/v1/completions", body, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(call, timeout=_TIMEOUT_S) as response:
            answer = json.load(response)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=_TIMEOUT_S)
    assert (answer["usage"]["completion_tokens"], len(answer["choices"][0]["logprobs"]["tokens"])) == (4, 4)
    assert (process.returncode, processes_of(config)) == (0, [])


@on_loop
async def test_a_killed_launcher_leaves_no_process(folder, environment, tmp_path):
    for name in ("model", "adapters"):
        (tmp_path / name).symlink_to(folder / name)
    config = rig.write_config(tmp_path, replicas=1)
    with start(config, environment) as process:
        for line in process.stderr:
            if "loading weights" in line:
                break
        assert len(processes_of(config)) == 4
        process.send_signal(signal.SIGKILL)

        async def are_gone():
            return not processes_of(config)

        await rig.until(are_gone)
