"""What starting the processes of a node would stumble over, before any JAX."""

import socket
from pathlib import Path

import pytest

from cluster.cluster_config import ClusterConfig
from cluster.launch_plan import make_plan
from cluster.resolution import Seat
from lorajax.config import EngineConfig
from lorajax.preflight import examine_node, port

ENGINE = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=1)
SEAT = Seat(rank=0, source="--node-rank")


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def found(environment=(), node=0, **fields):
    fields = {"coordinator": "127.0.0.1:0", "insecure": True} | fields
    fields = {"model": Path(__file__)} | fields
    config = ClusterConfig(file=Path("/c"), engine=ENGINE, state_dir=Path("/s"), **fields)
    plan = make_plan(config, SEAT, is_local=False)
    return examine_node(plan, frozenset({node}), {"HOME": "/nowhere"} | dict(environment))


def grades(**arguments):
    return {(verdict.subject, verdict.grade) for verdict in found(**arguments)}


def test_nothing_is_broken_on_one_machine():
    assert {grade for _, grade in grades()} <= {"ok", "warning"}


def test_taken_port_names_the_key(taken):
    broken = [verdict.words for verdict in found(gateway=f"127.0.0.1:{taken}") if verdict.grade == "broken"]
    assert broken == [f"127.0.0.1:{taken}: Address already in use; choose another with cluster.gateway"]


def test_port_of_http_is_looked_at_too(taken):
    broken = [verdict.words for verdict in found(http=f"127.0.0.1:{taken}") if verdict.grade == "broken"]
    assert broken == [f"127.0.0.1:{taken}: Address already in use; choose another with cluster.http"]


def test_port_of_a_host_is_looked_at_too(taken):
    assert ("port", "broken") in grades(nodes=(f"127.0.0.1:{taken}",))


def test_ports_of_other_nodes_are_not_looked_at(taken):
    nodes = ("127.0.0.1", f"127.0.0.1:{taken}")
    assert ("port", "broken") not in grades(nodes=nodes, coordinator="127.0.0.1:60000", replicas=2)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"model": Path("/no")}, "model.path"),
        ({"preload": (("sql", Path("/no")),)}, "adapters.preload.sql"),
        ({"operating_points": Path("/no")}, "placement.operating_points"),
    ],
)
def test_file_that_is_missing_names_the_key(fields, key):
    broken = [(verdict.subject, verdict.words) for verdict in found(**fields) if verdict.grade == "broken"]
    assert broken == [(key, "is /no: No such file or directory; name one that this node can read")]


def test_adapter_root_that_is_missing_is_told_since_other_hosts_may_have_it():
    (told,) = [verdict for verdict in found(roots=(Path("/no"),)) if verdict.subject == "adapters.roots"]
    assert (told.grade, told.words.split(";")[0]) == ("warning", "is /no: No such file or directory")


def test_operating_points_are_looked_for_where_they_are_read():
    two = {"nodes": ("127.0.0.1",) * 2, "coordinator": "127.0.0.1:60000", "replicas": 2}
    assert "placement.operating_points" not in dict(grades(**two, node=1, operating_points=Path("/no")))


def test_port_to_be_chosen_is_fine():
    assert port("127.0.0.1:0", "--grpc").grade == "ok"


@pytest.mark.parametrize("node", ["no.such.name.invalid", "203.0.113.1"])
def test_address_of_another_machine_is_broken(node):
    assert port(f"{node}:50051", "--grpc").grade == "broken"


def test_name_is_looked_up_only_where_other_machines_collect():
    three = {"nodes": ("10.0.0.1", "10.0.0.2"), "coordinator": "10.0.0.1:1", "replicas": 2, "node": 1}
    assert "host name" in {subject for subject, _ in grades(**three)}
    assert "host name" not in {subject for subject, _ in grades(**three, transfer="stream")}


@pytest.mark.parametrize(("mode", "grade"), [(0o700, "ok"), (0o770, "warning")])
def test_cache_that_others_can_write_is_told(tmp_path, mode, grade):
    folder = tmp_path / "lorajax" / "xla"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert ("cache", grade) in grades(environment={"XDG_CACHE_HOME": str(tmp_path)}.items())


def test_proxy_without_exemption_is_told():
    assert ("proxy", "warning") in grades(environment={"HTTPS_PROXY": "http://proxy"}.items())
    assert ("proxy", "warning") not in grades(environment={"HTTPS_PROXY": "http://p", "no_proxy": "10.0.0.0/8"}.items())
