"""`lorajax launch` and the roles it starts. Owns: their flags, and how a plan is shown.

Does not: plan, supervise or serve (cluster/launch_plan.py, launcher.py and the modules of the roles).
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.table import Table

from cluster import emit
from cluster.cluster_config import ClusterConfig, read
from cluster.config import HostConfig, ServeConfig, WorldConfig, host_name
from cluster.launch_plan import Plan, make_plan
from cluster.launcher import launch as run_launcher
from cluster.process import run as run_process
from cluster.resolution import Seat, find_seat
from lorajax.cli_types import ADDRESS, Flag, bad_usage, console, import_on_use
from lorajax.preflight import examine_node

config_option = click.option(
    "--config",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="LORAJAX_CONFIG",
    show_envvar=True,
    help="The cluster's TOML file.",
)
_coordinator_option = click.option("--coordinator", type=ADDRESS, help="In place of cluster.coordinator.")
_rendezvous_option = click.option("--rendezvous", type=ADDRESS, help="In place of cluster.rendezvous.")
_ANY = "127.0.0.1:0"


def node_options[F: Callable[..., Flag]](command: F) -> F:
    """The flags that say which nodes of a cluster this machine is, shared by `launch` and `doctor`."""
    rank = click.option(
        "--node-rank",
        type=click.IntRange(0),
        help="Which of cluster.nodes this is.  [default: what LORAJAX_NODE_RANK, LeaderWorkerSet, Slurm, Open MPI or an"
        " indexed job says]",
    )
    local = click.option("--local", "is_local", is_flag=True, help="Every node of the file on this machine.")
    return rank(local(command))


@click.command(
    epilog="""\b
Examples:
  lorajax launch --config cluster.toml                  all of a cluster on this machine
  lorajax launch --config cluster.toml --node-rank 1    on the second of several machines
  lorajax launch --config cluster.toml --dry-run        what would run where
  lorajax launch --config cluster.toml --emit lws | kubectl apply -f -
Prints one line READY grpc=HOST:PORT … when the cluster can answer, on the gateway's node. SIGTERM or Ctrl-C drains,
a second one stops at once. Exits 1 when a process never
comes up; once the cluster was READY it goes on trying.
"""
)
@config_option
@node_options
@click.option("--dry-run", is_flag=True, help="Print the resolved plan and start nothing.")
@click.option("--emit", "engine", type=click.Choice(("slurm", "lws")), help="Print the job file of an engine instead.")
@click.option("--image", default="lorajax:latest", show_default=True, help="Container image for --emit lws.")
def launch(
    *, config: Path, node_rank: int | None, is_local: bool, dry_run: bool, engine: str | None, image: str
) -> int:
    """Start and look after the processes of one node, or of all with --local."""
    if engine is not None:
        with bad_usage():
            described = _read(config)
            click.echo(
                emit.slurm(described) if engine == "slurm" else emit.leader_worker_set(described, image), nl=False
            )
        return 0
    plan, nodes = find_plan(config, node_rank, is_local=is_local)
    if dry_run:
        _show(plan, nodes)
        return 0
    for verdict in examine_node(plan, nodes, os.environ):
        if verdict.grade == "broken":
            raise click.UsageError(f"{verdict.subject} {verdict.words}")
        if verdict.grade == "warning":
            _say(f"warning: {verdict.subject}: {verdict.words}")
    with bad_usage():
        return run_launcher(plan, nodes, os.environ, _say, lambda line: _say(line, err=False))


@click.command()
@config_option
@click.option("--process", required=True, type=click.IntRange(0), help="Its number in the whole cluster.")
@click.option("--grpc", type=ADDRESS, default=_ANY, show_default=True, help="Listen here; port 0: any.")
@_coordinator_option
@_rendezvous_option
def host(*, config: Path, process: int, grpc: str, coordinator: str | None, rendezvous: str | None) -> int:
    """Serve one process of one replica (`launch` starts it)."""
    settled = _settled(config, coordinator=coordinator, rendezvous=rendezvous)
    if process >= settled.num_processes:
        raise click.UsageError(
            f"--process {process}: the cluster has {settled.num_processes} processes, counted from 0"
        )
    with bad_usage():
        return int(import_on_use("cluster.launch").run_host(_host_config(settled, process, grpc)))


@click.command("coordinator")
@config_option
@_coordinator_option
def coordinate(*, config: Path, coordinator: str | None) -> int:
    """Decide where adapters are (`launch` starts it)."""
    settled = _settled(config, coordinator=coordinator)
    return run_process("coordinator", lambda: import_on_use("cluster.coordinator_server").run(settled))


@click.command()
@config_option
@click.option("--grpc", type=ADDRESS, help="In place of cluster.gateway.")
@click.option("--http", type=ADDRESS, help="In place of cluster.http.")
@_coordinator_option
def gateway(*, config: Path, grpc: str | None, http: str | None, coordinator: str | None) -> int:
    """Answer clients by asking hosts (`launch` starts it)."""
    settled = _settled(config, coordinator=coordinator, gateway=grpc, http=http)
    address = settled.gateway or _ANY
    return run_process("gateway", lambda: import_on_use("cluster.gateway").run(settled, grpc_address=address))


@click.command("rendezvous")
@config_option
@click.option("--address", type=ADDRESS, help="In place of cluster.rendezvous.")
def meet(*, config: Path, address: str | None) -> int:
    """Bring the hosts' JAX processes together (`launch` starts it)."""
    settled = _settled(config, rendezvous=address)
    where = settled.rendezvous
    if where is None:
        raise click.UsageError("--address is missing, and the file has no cluster.rendezvous")
    return run_process("rendezvous", lambda: import_on_use("cluster.rendezvous").run(settled, address=where))


def find_plan(config: Path, node_rank: int | None, *, is_local: bool) -> tuple[Plan, frozenset[int]]:
    """The plan, and the nodes of it that this machine is; bad usage where it cannot work."""
    with bad_usage():
        seat = Seat(rank=0, source="--local") if is_local else find_seat(node_rank, os.environ)
        plan = make_plan(_read(config), seat, is_local=is_local)
    return plan, frozenset(range(len(plan.config.nodes)) if is_local else (seat.rank,))


def _host_config(config: ClusterConfig, process: int, grpc: str) -> HostConfig:
    folders = dict.fromkeys((*config.roots, *(folder for _, folder in config.preload)))
    return HostConfig(
        name=host_name(process),
        coordinator=config.coordinator,
        fingerprint=config.fingerprint,
        speed=config.speed_of(process),
        serve=ServeConfig(
            model=str(config.model),
            engine=config.engine,
            grpc=grpc,
            adapter_roots=tuple(map(str, folders)),
            kernels=config.kernels,
            drain_s=config.drain_s,
            insecure=config.insecure,
        ),
        world=_world(config, process),
    )


def _world(config: ClusterConfig, process: int) -> WorldConfig | None:
    if config.rendezvous is None:
        return None
    return WorldConfig(
        rendezvous=config.rendezvous,
        process=process,
        num_processes=config.num_processes,
        per_replica=config.processes_per_replica,
        devices=config.devices_per_process,
    )


def _settled(file: Path, **addresses: str | None) -> ClusterConfig:
    """The file's values, with those addresses in place of its own that are given."""
    with bad_usage():
        given = {key: address for key, address in addresses.items() if address is not None}
        return dataclasses.replace(_read(file), **given)  # type: ignore[arg-type]  # only keys of addresses are passed


def _read(file: Path) -> ClusterConfig:
    return read(file, Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"))


def _show(plan: Plan, nodes: frozenset[int]) -> None:
    """What would run where: a table for a person, lines for a program."""
    rows = list(_rows(plan, nodes))
    config = plan.config
    shape = (
        f"{config.replicas} replicas x {config.processes_per_replica} processes x {config.devices_per_process} devices"
    )
    about = f"{config.base}: {shape} on {len(config.nodes)} nodes, transfer {config.transfer}"
    out = console()
    if not out.is_terminal:
        click.echo("\n".join((about, *("  ".join(row) for row in rows), f"state in {config.state_dir}")))
        return
    table = Table(title=about, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("node", "machine", "process", "address", "what", "here"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    out.print(f"state in {config.state_dir}", style="dim")


def _rows(plan: Plan, nodes: frozenset[int]) -> Iterator[tuple[str, ...]]:
    config = plan.config
    about = {
        "rendezvous": "brings the JAX world together",
        "coordinator": f"places by {config.policy} every {config.interval_s:g} s",
        "gateway": f"answers clients, routes by {config.routing}; {len(config.preload)} adapters before READY",
    }
    addresses = {"rendezvous": config.rendezvous, "coordinator": config.coordinator, "gateway": config.gateway}
    for role, address in addresses.items():
        if address is not None:
            yield _row(plan, nodes, plan.head, role, address, about[role])
    if config.http is not None:
        yield _row(plan, nodes, plan.head, "gateway", config.http, "answers OpenAI's HTTP")
    for host_plan in plan.hosts:
        what = f"replica {host_plan.replica}"
        if config.processes_per_replica > 1:
            what += ", leader" if host_plan.member == 0 else f", follower {host_plan.member}"
        yield _row(plan, nodes, host_plan.node, f"host-{host_plan.process}", host_plan.address, what)


def _row(plan: Plan, nodes: frozenset[int], node: int, name: str, address: str, what: str) -> tuple[str, ...]:
    where = f"{address[:-2]}:(free)" if address.endswith(":0") else address
    return f"node {node}", plan.config.nodes[node], name, where, what, "here" if node in nodes else ""


def _say(line: str, *, err: bool = True) -> None:
    """Print a line; where it cannot be printed the cluster goes on."""
    try:
        click.echo(line, err=err)
    except BrokenPipeError:  # who read it has gone, and what is left in the buffer would make our own end a failure
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), (sys.stderr if err else sys.stdout).fileno())
    except OSError:  # a full disk may have room again
        pass
