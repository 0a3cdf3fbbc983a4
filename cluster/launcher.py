"""The processes of one node, from the plan to their end. Owns: their commands, free ports, the state folder, READY.

Does not: decide what runs where (launch_plan.py) or keep it running (supervisor.py).
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cluster.client import Client, ClientError
from cluster.cluster_config import ClusterConfig
from cluster.config import parse_address
from cluster.launch_plan import HostPlan, Plan
from cluster.supervisor import Child, Supervisor

_READY_TIMEOUT_S = 3600.0
_ASK_AGAIN_S = 1.0
_END_S = 15.0
"""What a process may take to end after it has drained."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def launch(
    plan: Plan,
    nodes: frozenset[int],
    environment: Mapping[str, str],
    say: Callable[[str], None],
    on_ready: Callable[[str], None],
) -> int:
    """Run the processes of these nodes of the plan until told to end; returns the exit code.

    `say` hears what a person should know; where the gateway runs, `on_ready` gets the line READY when the cluster can
    answer.
    Raises: ValueError where another launcher runs the same node, or the state folder cannot be written in.
    """
    with _held(plan.config.state_dir, nodes):
        plan = with_ports(plan) if plan.head in nodes else plan
        return asyncio.run(_run(plan, nodes, environment, say, on_ready))


def children(plan: Plan, nodes: frozenset[int]) -> list[Child]:
    """The processes of these nodes, as commands."""
    config = plan.config
    has_head = plan.head in nodes
    coordinator = ("--coordinator", config.coordinator)
    rendezvous = () if config.rendezvous is None else ("--rendezvous", config.rendezvous)
    found = [_host(plan, host, nodes, (*coordinator, *rendezvous)) for host in plan.hosts if host.node in nodes]
    if has_head:
        http = () if config.http is None else ("--http", config.http)
        gateway = ("--grpc", str(config.gateway), *http, *coordinator)
        found.append(Child(name="coordinator", command=_command(plan, "coordinator", *coordinator), stage=1))
        found.append(Child(name="gateway", command=_command(plan, "gateway", *gateway), stage=3))
    if has_head and config.rendezvous is not None:
        command = _command(plan, "rendezvous", "--address", config.rendezvous)
        found.append(Child(name="rendezvous", command=command, stage=0))
    return found


def with_ports(plan: Plan) -> Plan:
    """The same plan with a free port for each address of the head that leaves it open."""
    config = plan.config
    with contextlib.ExitStack() as held:  # all at once, so that no port is found twice
        settled = dataclasses.replace(
            config,
            coordinator=held.enter_context(_free(config.coordinator)),
            rendezvous=config.rendezvous and held.enter_context(_free(config.rendezvous)),
            gateway=config.gateway and held.enter_context(_free(config.gateway)),
            http=config.http and held.enter_context(_free(config.http)),
        )
    return dataclasses.replace(plan, config=settled)


def _host(plan: Plan, host: HostPlan, nodes: frozenset[int], addresses: tuple[str, ...]) -> Child:
    """A host cannot go on without the others of its replica, nor without the rendezvous of its world."""
    needs = {f"host-{mate.process}" for mate in plan.replica_of(host) if mate.node in nodes and mate != host}
    if plan.config.rendezvous is not None and plan.head in nodes:
        needs.add("rendezvous")
    command = _command(plan, "host", "--process", str(host.process), "--grpc", host.address, *addresses)
    return Child(name=f"host-{host.process}", command=command, stage=2, needs=frozenset(needs))


def _command(plan: Plan, role: str, *flags: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "lorajax", role, "--config", str(plan.config.file), *flags)


async def _run(
    plan: Plan,
    nodes: frozenset[int],
    environment: Mapping[str, str],
    say: Callable[[str], None],
    on_ready: Callable[[str], None],
) -> int:
    logs = _logs(plan.config.state_dir)
    supervisor = Supervisor(
        children(plan, nodes),
        logs,
        say,
        environment={**environment, "PYTHONUNBUFFERED": "1"},
        drain_s=plan.config.drain_s + _END_S,
    )
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
    say(f"logs are in {logs}")
    async with asyncio.TaskGroup() as tasks:
        announcing = tasks.create_task(_announce(plan, nodes, supervisor, on_ready))
        code = await supervisor.run()
        announcing.cancel()
    return code


async def _announce(plan: Plan, nodes: frozenset[int], supervisor: Supervisor, on_ready: Callable[[str], None]) -> None:
    """Tell the supervisor once the cluster can answer, and where the gateway runs say READY.

    Who is asked may be started anew before that. Other nodes ask the coordinator, whose address reaches everywhere.
    """
    config = plan.config
    has_head = plan.head in nodes
    async with Client(str(config.gateway) if has_head else config.coordinator) as client:
        while not await _is_ready(client):
            await asyncio.sleep(_ASK_AGAIN_S)
    supervisor.ready()
    if not has_head:
        return
    with contextlib.suppress(OSError):  # who should have read it has gone; the cluster goes on
        on_ready(_ready_line(config))


def _ready_line(config: ClusterConfig) -> str:
    http = "" if config.http is None else f" http={config.http}"
    return (
        f"READY grpc={config.gateway}{http} coordinator={config.coordinator} model={config.model.name} "
        f"replicas={config.replicas} transfer={config.transfer} pid={os.getpid()}"
    )


async def _is_ready(client: Client) -> bool:
    try:
        await client.wait_ready(_READY_TIMEOUT_S)
    except ClientError:
        return False
    return True


@contextlib.contextmanager
def _free(address: str) -> Iterator[str]:
    """The address, its port held while the block runs and free afterwards, if it was left open."""
    host, number = parse_address(address)
    if number:
        yield address
        return
    family, *_, where = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
    with socket.create_server(where, family=family) as server:
        yield f"{host}:{server.getsockname()[1]}"


def _logs(state: Path) -> Path:
    return state / "logs"


@contextlib.contextmanager
def _held(state: Path, nodes: frozenset[int]) -> Iterator[None]:
    """The state folder, made where it is missing, its nodes locked while the block runs."""
    with contextlib.ExitStack() as held:
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            _logs(state).mkdir(exist_ok=True)
            for node in sorted(nodes):
                held.enter_context(_locked(state / f"node-{node}.lock"))
        except OSError as error:
            raise ValueError(
                f"cluster.state_dir is {state}: {error.filename}: {error.strerror}; name a folder to write in"
            ) from None
        yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file that only one launcher can hold; the system lets go of it when we die."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another launch runs this node already: {path} is locked; end that one first") from None
        yield
