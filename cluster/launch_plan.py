"""What runs where. Owns: how replicas are dealt to nodes, and the addresses that a configuration leaves open.

Does not: start anything, or find out whether ports are free.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.cluster_config import ClusterConfig, node_host, node_port
from cluster.config import is_loopback, parse_address
from cluster.resolution import Seat

_EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104  # compared with, not listened on


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """One host process."""

    process: int
    """Its number in the whole cluster."""
    replica: int
    member: int
    """Its number in the replica; 0 is the leader."""
    node: int
    address: str
    """Where it answers; port 0 is a free one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every process of the cluster, and where it runs."""

    config: ClusterConfig
    """With every address filled in; port 0 is for the launcher to choose."""
    hosts: tuple[HostPlan, ...]
    head: int
    """The node that runs coordinator, gateway and rendezvous."""

    def replica_of(self, host: HostPlan) -> tuple[HostPlan, ...]:
        """The hosts that serve one copy of the base together, `host` among them."""
        return tuple(other for other in self.hosts if other.replica == host.replica)


def make_plan(config: ClusterConfig, seat: Seat, *, is_local: bool) -> Plan:
    """What the configuration means where `seat` says; `is_local` puts every node on this machine.

    Rendezvous and gateway, where not given, are beside the coordinator, at the ports after its own or at free ones on a
    single machine.
    Replicas lie on nodes in contiguous blocks. Raises: ValueError naming the key or flag to change.
    """
    config = _settled(config, seat, is_local=is_local)
    nodes, num_processes = config.nodes, config.num_processes
    per_node = _per_node(config)
    members = config.processes_per_replica
    hosts = tuple(
        HostPlan(
            process=process,
            replica=process // members,
            member=process % members,
            node=process // per_node,
            address=_host_address(nodes[process // per_node], process % per_node),
        )
        for process in range(num_processes)
    )
    _check_distinct(config, hosts)
    return Plan(config=config, hosts=hosts, head=_head(config))


def _settled(config: ClusterConfig, seat: Seat, *, is_local: bool) -> ClusterConfig:
    """The same configuration with no address left out."""
    nodes = _nodes(config, seat, is_local=is_local)
    is_alone = is_local or len(nodes) == 1
    first = node_host(nodes[0])
    beside, port = parse_address(config.coordinator)
    beside = first if beside in _EVERYWHERE else beside
    is_dealt = not config.nodes and not is_local
    """Whether a scheduler named the nodes: what the file calls this machine is then the first of them."""

    def settle(key: str, address: str | None, default_port: int) -> str:
        host, number = parse_address(address or f"{beside}:{0 if is_alone else default_port}")
        if is_local or (is_dealt and is_loopback(host)):
            host = first
        if not is_alone and key not in ("gateway", "http"):  # which only clients and its own launcher call
            _check_known(key, host, number, nodes)
        return f"{host}:{number}"

    return dataclasses.replace(
        config,
        nodes=nodes,
        coordinator=settle("coordinator", config.coordinator, port),
        rendezvous=settle("rendezvous", config.rendezvous, port + 1) if config.transfer == "collective" else None,
        gateway=settle("gateway", config.gateway, port + 2),
        http=config.http and settle("http", config.http, 0),
    )


def _check_known(key: str, host: str, port: int, nodes: Sequence[str]) -> None:
    """Raises: ValueError where other nodes could not find the address."""
    address = f"{host}:{port}"
    if port == 0:
        raise ValueError(f"cluster.{key} is {address}: other nodes cannot know a port that is chosen; name one")
    if host in _EVERYWHERE or (is_loopback(host) and not all(is_loopback(node_host(node)) for node in nodes)):
        raise ValueError(f"cluster.{key} is {address}: other nodes cannot reach it; name this node's address")


def _check_distinct(config: ClusterConfig, hosts: Sequence[HostPlan]) -> None:
    """Raises: ValueError where two processes would listen at one address."""
    head = parse_address(config.coordinator)[0]
    keys: dict[tuple[str, int], str] = {}
    for key, address in (
        ("coordinator", config.coordinator),
        ("rendezvous", config.rendezvous),
        ("gateway", config.gateway),
        ("http", config.http),
        *(("nodes", host.address) for host in hosts),
    ):
        if address is None or not (where := parse_address(address))[1]:
            continue
        if where[0] in _EVERYWHERE:
            where = head, where[1]
        if where in keys:
            raise ValueError(f"cluster.{keys[where]} and cluster.{key} both take {address}; give one another port")
        keys[where] = key


def _nodes(config: ClusterConfig, seat: Seat, *, is_local: bool) -> tuple[str, ...]:
    listed = config.nodes
    if is_local:
        return ("127.0.0.1",) * max(1, len(listed))
    nodes = listed or seat.names or ("127.0.0.1",)
    if seat.num_nodes == 1 and len(nodes) > 1:
        raise ValueError(
            f"cluster.nodes names {len(nodes)} nodes and {seat.source} says which of them this is; "
            "add --node-rank R, or --local to start them all on this machine"
        )
    if seat.rank >= len(nodes) or seat.num_nodes not in (None, len(nodes)):
        says = f"node {seat.rank}" if seat.num_nodes is None else f"node {seat.rank} of {seat.num_nodes}"
        raise ValueError(
            f"{seat.source} says {says}, but there is room for {len(nodes)} in cluster.nodes; make them equal"
        )
    return nodes


def _per_node(config: ClusterConfig) -> int:
    """Hosts of one node. Raises: ValueError where processes or replicas would be torn."""
    num_processes, num_nodes = config.num_processes, len(config.nodes)
    members = config.processes_per_replica
    if num_processes % num_nodes:
        raise ValueError(
            f"cluster.replicas {config.replicas} x processes_per_replica {members} = {num_processes} processes "
            f"do not divide over {num_nodes} nodes; make replicas a multiple"
        )
    per_node = num_processes // num_nodes
    if per_node % members and members % per_node:
        raise ValueError(
            f"cluster.processes_per_replica {members} and {per_node} processes per node do not divide: "
            "a replica would share its nodes unevenly"
        )
    return per_node


def _host_address(node: str, number: int) -> str:
    port = node_port(node)
    if port + number > 65535:
        raise ValueError(
            f"cluster.nodes {node}: host {number} there would get port {port + number}; choose a lower one"
        )
    return f"{node_host(node)}:{port + number if port else 0}"


def _head(config: ClusterConfig) -> int:
    """The node at the coordinator's address, else the first."""
    host, _ = parse_address(config.coordinator)
    return next((number for number, node in enumerate(config.nodes) if node_host(node) == host), 0)
