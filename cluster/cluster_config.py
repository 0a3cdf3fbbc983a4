"""`cluster.toml` as one frozen value. Owns: its tables, keys, defaults and what is refused.

Does not: say what runs where (launch_plan.py), read the environment, or look at what the paths name.
"""

import difflib
import hashlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from cluster import toml_values
from cluster.config import ADAPTER_NAME, MIB, is_loopback, parse_address
from cluster.toml_values import Reader, Value
from lorajax.config import EngineConfig

COORDINATOR_PORT = 50051
DTYPES = ("float32", "bfloat16", "float16")
KERNELS = ("auto", "native", "xla", "reference", "mosaic", "triton")
POLICIES = ("ours", "loraserve")
ROUTINGS = ("ours",)
TRANSFERS = ("collective", "stream")
_MAX_DRAIN_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Everything that the processes of one cluster are started with; every path is absolute."""

    file: Path
    """Where it was read."""
    model: Path
    """Hugging Face or Orbax folder, or GGUF file, of the base model."""
    engine: EngineConfig
    """Of one replica: `tensor_parallel` counts the devices of all its processes."""
    state_dir: Path
    """Registry and logs. Registrations survive as long as this folder does."""
    kernels: str = "auto"
    """Which implementation of the ops runs, by its name in `pallas_kernels/ops.py`."""
    coordinator: str = f"127.0.0.1:{COORDINATOR_PORT}"
    """HOST:PORT; port 0 takes a free one where everything runs on one machine."""
    gateway: str | None = None
    """HOST:PORT where clients are answered; launch_plan.py says what None becomes."""
    http: str | None = None
    """HOST:PORT where the gateway answers OpenAI's HTTP too; None answers gRPC alone."""
    rendezvous: str | None = None
    """HOST:PORT of the coordination service of the JAX world; launch_plan.py says what None becomes."""
    nodes: tuple[str, ...] = ()
    """HOST or HOST:PORT of every machine; PORT is the first port of its hosts, which else take free ones."""
    replicas: int = 1
    """Copies of the base model."""
    processes_per_replica: int = 1
    devices_per_process: int = 1
    transfer: Literal["collective", "stream"] = "collective"
    """How adapters cross hosts: by collectives in one JAX world, or over gRPC between hosts that share nothing."""
    speeds: tuple[float, ...] = ()
    """Tokens/s of each replica relative to the one that was profiled, in order; none: all are alike."""
    drain_s: float = 30.0
    """How long running requests may finish after SIGTERM. Too small cuts answers; too large delays restarts."""
    insecure: bool = False
    """Listen beyond this machine although the ports have neither encryption nor authentication."""
    roots: tuple[Path, ...] = ()
    """Folders that `Adapters.Load` may read below."""
    preload: tuple[tuple[str, Path], ...] = ()
    """(name, PEFT folder), registered before READY."""
    min_copies: int = 1
    """Hosts that hold each adapter. More survive more losses, and take more host memory."""
    policy: str = "ours"
    """Who decides which host holds what: one of POLICIES, or MODULE:FUNCTION of a `placement_input.Policy`."""
    routing: str = "ours"
    """Who chooses among hosts for a request: one of ROUTINGS, or MODULE:NAME of a `routing_input.Routing`."""
    interval_s: float = 30.0
    """Between two rounds. Smaller follows demand sooner, and moves more."""
    operating_points: Path | None = None
    """What `lorajax profile` wrote; None takes built-in ones."""
    budget_bytes: int = 1024 * MIB
    """Adapters moved per round. Smaller disturbs less, and follows demand later."""
    ttft_p95_s: float = 2.0
    """Request to first token: what counts as in time. A tenth of it is what the plan may cost a request."""
    tbt_p95_s: float = 0.2
    """Between two tokens."""

    def __post_init__(self) -> None:
        """Refuse what could not run, or would be open to strangers by accident."""
        keys = ("coordinator", "gateway", "http", "rendezvous")
        addresses = ((key, getattr(self, key)) for key in keys)  # our own fields, by the names that the file has too
        for key, host in (
            *((key, parse_address(address)[0]) for key, address in addresses if address is not None),
            *(("nodes", node_host(node)) for node in self.nodes),
        ):
            if not (self.insecure or is_loopback(host)):
                raise ValueError(
                    f"cluster.{key}: {host} can be reached from other machines, without encryption or authentication; "
                    "set cluster.insecure = true inside a trusted network"
                )
        if not 0 <= self.drain_s <= _MAX_DRAIN_S:
            raise ValueError(f"cluster.drain_s is {self.drain_s:g}; it must lie in 0 … {_MAX_DRAIN_S:g} seconds")
        if self.speeds and len(self.speeds) != self.replicas:
            raise ValueError(
                f"cluster.speeds has {len(self.speeds)} numbers for {self.replicas} replicas; give one for each"
            )
        if self.transfer == "stream" and self.processes_per_replica > 1:
            raise ValueError(
                f"cluster.processes_per_replica is {self.processes_per_replica}, which needs a JAX world: "
                'use cluster.transfer = "collective", or one process per replica'
            )

    def speed_of(self, process: int) -> float:
        """Of the replica that a process belongs to."""
        return self.speeds[process // self.processes_per_replica] if self.speeds else 1.0

    @property
    def num_processes(self) -> int:
        """Of hosts, in the whole cluster."""
        return self.replicas * self.processes_per_replica

    @property
    def fingerprint(self) -> str:
        """What every host of the cluster must serve, and with which software, in words."""
        return f"{self.base} by lorajax {version('lorajax')}"

    @property
    def fingerprint_id(self) -> str:
        """What adapters are registered for, fit for a file name; an upgrade keeps it."""
        return hashlib.sha256(self.base.encode()).hexdigest()[:12]

    @property
    def base(self) -> str:
        """The base model, in words."""
        return f"{self.model.name} in {self.engine.dtype}"


def node_host(node: str) -> str:
    """The host of "HOST" or "HOST:PORT"."""
    return parse_address(node)[0] if ":" in node and not node.endswith("]") else node


def node_port(node: str) -> int:
    """The port of "HOST:PORT", 0 for "HOST"."""
    return parse_address(node)[1] if ":" in node and not node.endswith("]") else 0


def read(path: Path, state_home: Path) -> ClusterConfig:
    """The configuration in a TOML file; what it does not set is kept below `state_home`.

    Raises: ValueError of one line that names the file and the key.
    """
    file = path.absolute()  # links are not followed: Kubernetes replaces the folder behind a mounted file
    try:
        return _config(tomllib.loads(file.read_text(encoding="utf-8")), file, state_home)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; name a cluster.toml that can be read") from None
    except ValueError as error:  # a TOMLDecodeError and a UnicodeDecodeError too
        raise ValueError(f"{path}: {error}") from None


def _config(tables: Mapping[str, Value], file: Path, state_home: Path) -> ClusterConfig:
    readers = _readers(file.parent)
    for name, table in tables.items():
        if name not in readers:
            raise ValueError(f"[{name}] is not a table of it; did you mean [{_nearest(name, readers)}]?")
        if not isinstance(table, dict):
            raise ValueError(f"{name} is a value; write the table [{name}]")
    values = {name: _read_table(name, tables.get(name, {}), readers[name]) for name in readers}
    model, cluster, engine = values.pop("model"), values.pop("cluster"), values.pop("engine")
    if "path" not in model:
        raise ValueError('model.path is missing; name the base model: [model] path = "DIR"')
    nodes, processes = cluster.get("nodes", ()), cluster.get("processes_per_replica", 1)
    defaults = {
        "state_dir": state_home / "lorajax" / _cluster_name(file),
        "replicas": max(1, len(nodes) // processes),
        "coordinator": f"{node_host(nodes[0]) if nodes else '127.0.0.1'}:{COORDINATOR_PORT}",
    }
    devices = processes * cluster.get("devices_per_process", 1)
    kernels = engine.pop("kernels", "auto")
    sizes = engine | {"dtype": model.get("dtype", "bfloat16"), "tensor_parallel": devices}
    others = values["adapters"] | values["placement"] | values["slo"]
    return ClusterConfig(
        file=file, model=model["path"], engine=_engine(sizes), kernels=kernels, **defaults | cluster, **others
    )


def _engine(sizes: dict[str, Value]) -> EngineConfig:
    defaults: dict[str, Value] = {"kv_bytes": 256 * MIB, "adapter_bytes": 256 * MIB, "host_adapter_bytes": 1024 * MIB}
    try:
        return EngineConfig(**defaults | sizes)
    except ValueError as error:
        raise ValueError(f"engine.{error}") from None


def _cluster_name(file: Path) -> str:
    """Two files of one name in two folders are two clusters."""
    return f"{file.stem}-{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def _read_table(name: str, table: Mapping[str, Value], readers: Mapping[str, Reader]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, value in table.items():
        if key not in readers:
            raise ValueError(f"{name}.{key} is not a key of [{name}]; did you mean {_nearest(key, readers)}?")
        try:
            values[key] = readers[key](value)
        except ValueError as error:
            raise ValueError(f"{name}.{key} is {value!r}; {error}") from None
    return values


def _nearest(word: str, known: Mapping[str, object]) -> str:
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]


def _readers(folder: Path) -> dict[str, dict[str, Reader]]:
    """How each key of each table is read; paths are relative to `folder`."""

    def path(value: Value) -> Path:
        return Path(os.path.normpath(folder / Path(toml_values.text(value)).expanduser()))

    def named_paths(value: Value) -> tuple[tuple[str, Path], ...]:
        if not isinstance(value, dict):
            raise ValueError('it must be a table, such as { sql = "adapters/sql" }')
        return tuple((_adapter_name(name), path(folder_of)) for name, folder_of in value.items())

    engine: dict[str, Reader] = {
        of_engine.name: toml_values.size if of_engine.name.endswith("_bytes") else toml_values.count
        for of_engine in fields(EngineConfig)
    }
    return {
        "model": {"path": path, "dtype": toml_values.one_of(DTYPES)},
        "cluster": {
            "coordinator": toml_values.address,
            "gateway": toml_values.address,
            "http": toml_values.address,
            "rendezvous": toml_values.address,
            "nodes": toml_values.list_of(_node),
            "replicas": toml_values.count,
            "processes_per_replica": toml_values.count,
            "devices_per_process": toml_values.count,
            "transfer": toml_values.one_of(TRANSFERS),
            "speeds": toml_values.list_of(toml_values.ratio),
            "state_dir": path,
            "drain_s": toml_values.seconds,
            "insecure": toml_values.flag,
        },
        "adapters": {"roots": toml_values.list_of(path), "preload": named_paths, "min_copies": toml_values.count},
        "engine": engine
        | {"kernels": toml_values.one_of(KERNELS), "dtype": toml_values.derived("model.dtype")}
        | {"tensor_parallel": toml_values.derived("cluster.processes_per_replica x cluster.devices_per_process")},
        "placement": {
            "policy": _name_of(POLICIES, "MODULE:FUNCTION"),
            "routing": _name_of(ROUTINGS, "MODULE:NAME"),
            "interval_s": toml_values.seconds,
            "operating_points": path,
            "budget_bytes": toml_values.size,
        },
        "slo": {"ttft_p95_s": toml_values.seconds, "tbt_p95_s": toml_values.seconds},
    }


def _name_of(known: tuple[str, ...], other: str) -> Reader:
    def read_name(value: Value) -> str:
        if ":" not in toml_values.text(value) and value not in known:
            raise ValueError(f"it must be one of {', '.join(known)}, or {other}")
        return str(value)

    return read_name


def _node(value: Value) -> str:
    node_port(toml_values.text(value))
    return str(value)


def _adapter_name(name: str) -> str:
    if not ADAPTER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} must be letters, digits, '.', '_' or '-', and start with a letter or digit")
    return name
