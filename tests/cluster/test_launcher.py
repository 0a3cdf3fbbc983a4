"""The commands of a node's processes, their ports, and that a node has one launcher."""

import asyncio
import contextlib
import dataclasses
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cluster import launcher
from cluster.cluster_config import ClusterConfig
from cluster.config import parse_address
from cluster.launch_plan import make_plan
from cluster.resolution import Seat
from lorajax.cli import main
from lorajax.config import EngineConfig
from tests.cluster.rig import on_loop

ENGINE = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=1)
ALL = frozenset(range(9))


def plan(state_dir=Path("/state"), rank=0, **fields):
    fields = {"replicas": 2, "insecure": True} | fields
    config = ClusterConfig(file=Path("/c.toml"), model=Path("/m"), engine=ENGINE, state_dir=state_dir, **fields)
    return make_plan(config, Seat(rank=rank, source="--node-rank"), is_local=False)


def by_name(found):
    return {child.name: child for child in found}


def flags(child):
    """The role and its flags, as `lorajax` gets them."""
    assert child.command[:3] == (sys.executable, "-m", "lorajax")
    return child.command[3:]


def test_head_runs_every_role():
    found = launcher.children(plan(), ALL)
    assert sorted(by_name(found)) == ["coordinator", "gateway", "host-0", "host-1", "rendezvous"]


def test_other_nodes_run_hosts_alone():
    found = launcher.children(plan(rank=1, nodes=("n0", "n1"), coordinator="n0:1"), frozenset({1}))
    assert [(child.name, child.needs) for child in found] == [("host-1", frozenset())]


def test_streams_have_no_rendezvous():
    found = by_name(launcher.children(plan(transfer="stream"), ALL))
    assert ("rendezvous" in found, found["host-0"].needs) == (False, frozenset())


def test_hosts_need_the_rendezvous_and_the_others_of_their_replica():
    found = by_name(launcher.children(plan(processes_per_replica=2), ALL))
    assert found["host-2"].needs == {"rendezvous", "host-3"}


def test_front_drains_before_hosts_and_hosts_before_what_they_need():
    found = by_name(launcher.children(plan(), ALL))
    stages = [found[name].stage for name in ("gateway", "host-0", "coordinator", "rendezvous")]
    assert stages == sorted(stages, reverse=True)


def test_children_learn_their_place_by_flags():
    addresses = {"coordinator": "127.0.0.1:1", "rendezvous": "127.0.0.1:2", "gateway": "127.0.0.1:3"}
    found = by_name(launcher.children(plan(**addresses, nodes=("127.0.0.1:9000",)), ALL))
    config = ("--config", "/c.toml")
    coordinator, rendezvous = ("--coordinator", "127.0.0.1:1"), ("--rendezvous", "127.0.0.1:2")
    host = ("host", *config, "--process", "1", "--grpc", "127.0.0.1:9001", *coordinator, *rendezvous)
    assert flags(found["host-1"]) == host
    assert flags(found["gateway"]) == ("gateway", *config, "--grpc", "127.0.0.1:3", *coordinator)
    assert flags(found["coordinator"]) == ("coordinator", *config, *coordinator)
    assert flags(found["rendezvous"]) == ("rendezvous", *config, "--address", "127.0.0.1:2")


def test_gateway_learns_where_http_is_answered_and_ready_tells_it():
    named = launcher.with_ports(plan(http="127.0.0.1:0", gateway="127.0.0.1:3"))
    http = named.config.http
    command = by_name(launcher.children(named, ALL))["gateway"].command
    assert command[command.index("--http") + 1] == http != "127.0.0.1:0"
    assert launcher._ready_line(named.config).startswith(f"READY grpc=127.0.0.1:3 http={http} coordinator=")


@pytest.mark.parametrize("name", ["host-0", "gateway", "coordinator", "rendezvous"])
def test_roles_take_the_flags_they_are_given(name, tmp_path):
    (tmp_path / "c.toml").write_text('[model]\npath = "m"\n')
    (role, *given) = flags(by_name(launcher.children(launcher.with_ports(plan(http="127.0.0.1:0")), ALL))[name])
    given[1] = str(tmp_path / "c.toml")
    assert main.commands[role].make_context(role, given).params["config"] == tmp_path / "c.toml"


def test_ports_left_open_are_chosen_each_its_own():
    found = launcher.with_ports(plan(coordinator="127.0.0.1:0")).config
    ports = {parse_address(address)[1] for address in (found.coordinator, found.rendezvous, found.gateway)}
    assert (len(ports), 0 in ports) == (3, False)


def test_ports_that_are_named_are_kept():
    assert launcher.with_ports(plan(gateway="127.0.0.1:7")).config.gateway == "127.0.0.1:7"


def test_a_node_has_one_launcher(tmp_path):
    with (
        launcher._locked(tmp_path / "node-0.lock"),
        pytest.raises(ValueError, match=r"another launch runs this node already: .*node-0\.lock"),
    ):
        launcher.launch(plan(tmp_path), frozenset({0}), {}, print, print)


@pytest.mark.parametrize("taken", ["", "logs", "node-0.lock/x"])
def test_a_state_folder_that_cannot_be_written_in_names_the_key(tmp_path, taken):
    (tmp_path / "state" / taken).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "state" / taken).write_text("in the way")
    with pytest.raises(ValueError, match=r"^cluster\.state_dir is .*/state: .*; name a folder to write in$"):
        launcher.launch(plan(tmp_path / "state"), frozenset({0}), {}, print, print)


@contextlib.asynccontextmanager
async def health_server():
    """Its address, and what makes it serve."""
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield address, lambda: servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.stop(None)


def at(address, key):
    return dataclasses.replace(plan(), config=dataclasses.replace(plan().config, **{key: address}))


class Told:
    """A supervisor that hears of READY."""

    is_ready = False

    def ready(self):
        self.is_ready = True


@on_loop
async def test_ready_is_said_once_the_gateway_serves():
    said = asyncio.get_running_loop().create_future()
    async with health_server() as (gateway, serve):
        announcing = asyncio.create_task(launcher._announce(at(gateway, "gateway"), ALL, Told(), said.set_result))
        await serve()
        assert (await said).startswith(f"READY grpc={gateway} coordinator=127.0.0.1:50051 model=m replicas=2 ")
        await announcing


@on_loop
async def test_nodes_without_the_gateway_learn_from_the_coordinator_that_it_is_ready():
    told = Told()
    async with health_server() as (coordinator, serve):
        await serve()
        await launcher._announce(at(coordinator, "coordinator"), frozenset({1}), told, print)
    assert told.is_ready


@on_loop
async def test_nobody_left_to_read_ready_is_no_failure():
    def gone(_):
        raise BrokenPipeError

    async with health_server() as (gateway, serve):
        await serve()
        await launcher._announce(at(gateway, "gateway"), ALL, Told(), gone)
