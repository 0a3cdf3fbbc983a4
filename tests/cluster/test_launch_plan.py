"""What runs where, and which plans are refused before anything starts."""

from pathlib import Path

import pytest

from cluster.cluster_config import ClusterConfig
from cluster.launch_plan import make_plan
from cluster.resolution import Seat
from lorajax.config import EngineConfig

ENGINE = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=1)
ALONE = Seat(rank=0, source="no scheduler", num_nodes=1)
THREE = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def config(**fields):
    fields = {"insecure": True} | fields
    return ClusterConfig(file=Path("/c.toml"), model=Path("/m"), engine=ENGINE, state_dir=Path("/s"), **fields)


def planned(seat=ALONE, *, is_local=False, **fields):
    return make_plan(config(**fields), seat, is_local=is_local)


def at(rank, **fields):
    return Seat(rank=rank, source="--node-rank", **fields)


def test_single_machine_leaves_ports_to_the_launcher():
    found = planned(replicas=2).config
    assert (found.coordinator, found.rendezvous, found.gateway) == ("127.0.0.1:50051", "127.0.0.1:0", "127.0.0.1:0")


def test_several_machines_take_the_ports_after_the_coordinators():
    found = planned(at(0), nodes=THREE, coordinator="10.0.0.2:6000", replicas=3).config
    assert (found.rendezvous, found.gateway) == ("10.0.0.2:6001", "10.0.0.2:6002")


def test_addresses_of_the_file_are_kept():
    given = {"coordinator": "10.0.0.1:1", "rendezvous": "10.0.0.1:2", "gateway": "10.0.0.1:3"}
    found = planned(at(0), nodes=THREE, replicas=3, **given).config
    assert (found.coordinator, found.rendezvous, found.gateway) == tuple(given.values())


def test_gateway_alone_may_listen_everywhere():
    found = planned(at(0), nodes=THREE, coordinator="10.0.0.1:1", replicas=3, gateway="0.0.0.0:9")
    assert found.config.gateway == "0.0.0.0:9"


def test_http_is_answered_only_where_it_is_asked_for():
    assert (planned().config.http, planned(http="127.0.0.1:0").config.http) == (None, "127.0.0.1:0")


def test_http_may_listen_everywhere():
    found = planned(at(0), nodes=THREE, coordinator="10.0.0.1:1", replicas=3, http="0.0.0.0:8000")
    assert found.config.http == "0.0.0.0:8000"


def test_streams_need_no_rendezvous():
    assert planned(transfer="stream").config.rendezvous is None


def test_replicas_lie_on_nodes_in_blocks():
    plan = planned(at(0), nodes=THREE[:2], coordinator="10.0.0.1:1", replicas=2, processes_per_replica=2)
    assert [(host.process, host.replica, host.member, host.node) for host in plan.hosts] == [
        (0, 0, 0, 0),
        (1, 0, 1, 0),
        (2, 1, 0, 1),
        (3, 1, 1, 1),
    ]


def test_a_replica_may_span_nodes():
    plan = planned(at(0), nodes=THREE[:2], coordinator="10.0.0.1:1", processes_per_replica=2)
    assert [host.node for host in plan.replica_of(plan.hosts[0])] == [0, 1]


def test_hosts_of_a_node_count_up_from_its_port():
    plan = planned(nodes=("127.0.0.1:9000",), replicas=3)
    assert [host.address for host in plan.hosts] == ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002"]


def test_hosts_of_a_node_without_a_port_take_free_ones():
    assert {host.address for host in planned(nodes=("127.0.0.1",), replicas=2).hosts} == {"127.0.0.1:0"}


@pytest.mark.parametrize(("coordinator", "head"), [("10.0.0.3:1", 2), ("elsewhere:1", 0)])
def test_head_is_the_node_at_the_coordinators_address_or_the_first(coordinator, head):
    assert planned(at(0), nodes=THREE, replicas=3, coordinator=coordinator).head == head


def test_local_puts_every_node_on_this_machine():
    plan = planned(is_local=True, nodes=THREE, replicas=3, coordinator="10.0.0.1:6000", gateway="10.0.0.1:6001")
    assert (plan.config.nodes, plan.config.coordinator) == (("127.0.0.1",) * 3, "127.0.0.1:6000")
    assert [host.node for host in plan.hosts] == [0, 1, 2]


def test_scheduler_names_the_nodes_of_a_file_without_any():
    plan = planned(at(1, num_nodes=2, names=("n1", "n2")), replicas=2, gateway="127.0.0.1:7")
    assert (plan.config.nodes, plan.config.coordinator, plan.config.gateway) == (("n1", "n2"), "n1:50051", "n1:7")


@pytest.mark.parametrize(
    ("seat", "fields", "words"),
    [
        (ALONE, {"nodes": THREE}, "add --node-rank R, or --local"),
        (at(3), {"nodes": THREE}, "--node-rank says node 3, but there is room for 3"),
        (at(0, num_nodes=2), {"nodes": THREE}, "says node 0 of 2, but there is room for 3"),
        (at(0), {"nodes": THREE, "coordinator": "10.0.0.1:1", "replicas": 4}, "do not divide over 3 nodes"),
        (
            at(0),
            {"nodes": THREE[:2], "coordinator": "10.0.0.1:1", "replicas": 3, "processes_per_replica": 2},
            "would share its nodes unevenly",
        ),
        (at(0), {"nodes": THREE, "coordinator": "10.0.0.1:0"}, "cannot know a port that is chosen"),
        (at(0), {"nodes": THREE, "coordinator": "0.0.0.0:1"}, "cluster.coordinator is 0.0.0.0:1: other nodes cannot"),
        (at(0), {"nodes": THREE, "coordinator": "127.0.0.1:1"}, "other nodes cannot reach it"),
        (
            ALONE,
            {"coordinator": "127.0.0.1:7", "gateway": "127.0.0.1:7"},
            "cluster.coordinator and cluster.gateway both",
        ),
        (ALONE, {"coordinator": "127.0.0.1:7", "gateway": "0.0.0.0:7"}, "cluster.coordinator and cluster.gateway both"),
        (ALONE, {"nodes": ("127.0.0.1:50050",), "replicas": 2}, "cluster.coordinator and cluster.nodes both take"),
        (ALONE, {"nodes": ("127.0.0.1:65535",), "replicas": 2}, "would get port 65536"),
    ],
)
def test_what_cannot_work_is_refused(seat, fields, words):
    with pytest.raises(ValueError, match=words):
        planned(seat, **fields)
