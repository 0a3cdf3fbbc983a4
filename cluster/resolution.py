"""Which node of the cluster this is. Owns: what schedulers say of it in the environment, and who is believed first.

Does not: read the environment itself, or know the configuration.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

type Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A machine's place among the nodes, as `source` tells it."""

    rank: int
    source: str
    num_nodes: int | None = None
    """None where the source does not say."""
    names: tuple[str, ...] = ()
    """Every node's address, by rank, where the source says."""

    def __post_init__(self) -> None:
        """Refuse a place outside the nodes."""
        if self.rank < 0 or (self.num_nodes is not None and self.rank >= self.num_nodes):
            raise ValueError(f"{self.source} says node {self.rank} of {self.num_nodes}; ranks count from 0")


def find_seat(node_rank: int | None, environment: Environment) -> Seat:
    """The place that the flag gives, or the first source of the environment that knows one; alone if none does.

    Flag and LORAJAX_NODE_RANK say only which node this is: names and number stay those of LeaderWorkerSet or Slurm.
    Raises: ValueError naming the variable that makes no sense.
    """
    if node_rank is not None:
        return _seated(node_rank, "--node-rank", environment)
    seats = (seat for find in _SOURCES if (seat := find(environment)) is not None)
    return next(seats, Seat(rank=0, source="no scheduler", num_nodes=1))


def expand_nodelist(text: str) -> tuple[str, ...]:
    """Host names of Slurm's short form: "gpu[01-03,7],login" is gpu01, gpu02, gpu03, gpu7, login."""
    parts = re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text)
    return tuple(name for part in parts for name in _expand(part))


def _expand(part: str) -> Iterator[str]:
    """One comma-free part; every bracket of it multiplies."""
    head, bracket, rest = part.partition("[")
    if not bracket:
        yield head
        return
    ranges, _, tail = rest.partition("]")
    tails = tuple(_expand(tail))
    for span in ranges.split(","):
        first, _, last = span.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield from (f"{head}{number:0{len(first)}d}{name}" for name in tails)


def _number(environment: Environment, name: str) -> int | None:
    text = environment.get(name, "")
    if text and not text.isdecimal():
        raise ValueError(f"{name} is {text!r}; it must be a number, or not set")
    return int(text) if text else None


def _lorajax(environment: Environment) -> Seat | None:
    rank = _number(environment, "LORAJAX_NODE_RANK")
    return None if rank is None else _seated(rank, "LORAJAX_NODE_RANK", environment)


def _seated(rank: int, source: str, environment: Environment) -> Seat:
    """The place `rank` among the nodes that a scheduler names, if one does."""
    known = _leader_worker_set(environment) or _slurm(environment)
    return dataclasses.replace(known or Seat(rank=0, source=source), rank=rank, source=source)


def _leader_worker_set(environment: Environment) -> Seat | None:
    """Kubernetes: the leader's address is POD.SERVICE.NAMESPACE, worker 3's pod is POD-3."""
    rank = _number(environment, "LWS_WORKER_INDEX")
    if rank is None:
        return None
    num_nodes, leader = _number(environment, "LWS_GROUP_SIZE"), environment.get("LWS_LEADER_ADDRESS", "")
    if num_nodes is None or not leader:
        raise ValueError("LWS_WORKER_INDEX is set without LWS_GROUP_SIZE and LWS_LEADER_ADDRESS; set all three or none")
    pod, dot, domain = leader.partition(".")
    workers = (f"{pod}-{worker}{dot}{domain}" for worker in range(1, num_nodes))
    return Seat(rank=rank, source="LWS_WORKER_INDEX", num_nodes=num_nodes, names=(leader, *workers))


def _slurm(environment: Environment) -> Seat | None:
    if environment.get("SLURM_LOCALID", "0") != "0":
        raise ValueError("SLURM_LOCALID is not 0: several tasks run on this node; use srun --ntasks-per-node=1")
    names = ("SLURM_NODEID", "SLURM_PROCID")
    name = next((name for name in names if _number(environment, name) is not None), None)
    if name is None:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    try:
        hosts = expand_nodelist(nodes)
    except ValueError:
        raise ValueError(f"SLURM_JOB_NODELIST is {nodes!r}, which is no list of nodes such as gpu[01-04]") from None
    num_nodes = len(hosts) or _number(environment, "SLURM_NNODES")
    return Seat(rank=int(environment[name]), source=name, num_nodes=num_nodes, names=hosts)


def _open_mpi(environment: Environment) -> Seat | None:
    rank = _number(environment, "OMPI_COMM_WORLD_RANK")
    if rank is None:
        return None
    num_nodes = _number(environment, "OMPI_COMM_WORLD_SIZE")
    return Seat(rank=rank, source="OMPI_COMM_WORLD_RANK", num_nodes=num_nodes)


def _indexed_job(environment: Environment) -> Seat | None:
    rank = _number(environment, "JOB_COMPLETION_INDEX")
    return None if rank is None else Seat(rank=rank, source="JOB_COMPLETION_INDEX")


_SOURCES: tuple[Callable[[Environment], Seat | None], ...] = (
    _lorajax,
    _leader_worker_set,
    _slurm,
    _open_mpi,
    _indexed_job,
)
"""Most deliberate first."""
