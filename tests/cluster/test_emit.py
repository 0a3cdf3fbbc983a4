"""The job files in `deploy/` are those that are generated, and are sound."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster import emit
from cluster.cluster_config import read
from lorajax.cli import main

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = {"slurm": "slurm.sh", "lws": "leaderworkerset.yaml"}


@pytest.mark.parametrize("engine", FILES)
def test_deploy_is_as_generated(engine):
    result = CliRunner().invoke(main, ["launch", "--config", str(DEPLOY / "cluster.toml"), "--emit", engine])
    assert (result.exit_code, result.stdout) == (0, (DEPLOY / FILES[engine]).read_text())


@pytest.fixture
def manifests():
    yaml = pytest.importorskip("yaml")
    return {part["kind"]: part for part in yaml.safe_load_all((DEPLOY / FILES["lws"]).read_text())}


def test_manifest_carries_the_configuration(manifests):
    assert manifests["ConfigMap"]["data"]["cluster.toml"].strip() == (DEPLOY / "cluster.toml").read_text().strip()


def test_leader_and_workers_start_the_same_command(manifests):
    template = manifests["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    commands = [template[name]["spec"]["containers"][0]["command"] for name in ("leaderTemplate", "workerTemplate")]
    assert commands == [["lorajax", "launch", "--config", "/etc/lorajax/cluster.toml"]] * 2


def test_service_leads_to_the_leaders_gateway(manifests):
    template = manifests["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]
    probed = template["containers"][0]["readinessProbe"]["grpc"]["port"]
    assert manifests["Service"]["spec"]["ports"][0]["targetPort"] == probed == 50053


def test_service_leads_to_http_where_it_is_answered(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[model]\npath = "m"\n[cluster]\ngateway = "0.0.0.0:1"\nhttp = "0.0.0.0:8000"\ninsecure = true\n')
    ports = "    - name: http\n      port: 8000\n      targetPort: 8000\n"
    assert ports in emit.leader_worker_set(read(file, tmp_path), "image")


def test_manifest_says_what_the_state_needs_to_survive():
    assert "Only a claim in place of emptyDir survives the pod." in (DEPLOY / FILES["lws"]).read_text()


def test_pods_may_drain_before_they_are_killed(manifests):
    template = manifests["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
    assert template["terminationGracePeriodSeconds"] > 2 * read(DEPLOY / "cluster.toml", DEPLOY).drain_s


def test_nodes_share_their_devices_among_processes(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text(
        '[model]\npath = "m"\n[cluster]\nnodes = ["n0", "n1"]\nreplicas = 4\ndevices_per_process = 2\ninsecure = true\n'
    )
    script = emit.slurm(read(file, tmp_path))
    assert ("--nodes=2\n" in script, "--gpus-per-node=4\n" in script) == (True, True)


def test_single_pod_must_name_the_port_of_its_service(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[model]\npath = "m"\n')
    with pytest.raises(ValueError, match=r"cluster\.gateway is missing"):
        emit.leader_worker_set(read(file, tmp_path), "image")
