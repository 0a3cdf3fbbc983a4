"""What a process is started with, as one frozen value. Owns: the fields of `serve` and how sizes and addresses are
written. Does not: read files, the environment or flags (lorajax/cli_serve.py and cluster/launch.py do).
"""

import ipaddress
import re
from dataclasses import dataclass

from lorajax.config import EngineConfig

MIB = 2**20
_UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What an adapter may be called: never a path, never empty (the empty name is the base model)."""


def parse_bytes(text: str) -> int:
    """Number of bytes in "256MiB", "1.5GB", "64k" or "4096"; K/M/G/T are powers of 1000, Ki/Mi/Gi/Ti of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as 256MiB or 1.5GB")
    return int(float(match[1]) * _UNITS[match[2]])


def format_bytes(num_bytes: int) -> str:
    """The size in words, to three digits: "1.5 GiB", "256 MiB", "512 B"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}" if num_bytes < 1000 * scale else f"{num_bytes / scale:,.0f} {unit}"
    return f"{num_bytes} B"


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT" or "[IPv6]:PORT"; port 0 asks the system for a free one."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is not an address; write HOST:PORT, such as 127.0.0.1:50051")
    if int(port) > 65535:
        raise ValueError(f"port {port} of {text!r} is outside 0 … 65535")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything that `lorajax serve` needs to start one process."""

    model: str
    """Hugging Face or Orbax folder, or GGUF file, of the base model."""
    engine: EngineConfig
    grpc: str = "127.0.0.1:50051"
    """HOST:PORT to listen on; port 0 takes a free one, which the READY line names."""
    http: str | None = None
    """HOST:PORT to answer OpenAI's HTTP on as well; None answers gRPC alone."""
    adapters: tuple[tuple[str, str], ...] = ()
    """(name, PEFT folder), loaded before READY."""
    adapter_roots: tuple[str, ...] = ()
    """Folders that `Adapters.Load` may read below; none means that nothing can be loaded while serving."""
    kernels: str = "auto"
    """Which implementation of the ops runs, by its name in `pallas_kernels/ops.py`; "auto" is the fastest here."""
    drain_s: float = 30.0
    """How long running requests may finish after SIGTERM. Too small cuts answers; too large delays restarts."""
    insecure: bool = False
    """Listen beyond this machine although the port has neither encryption nor authentication."""

    def __post_init__(self) -> None:
        """Refuse what could not be served, or would be served to strangers by accident."""
        for flag, address in (("--grpc", self.grpc), ("--http", self.http)):
            if not (address is None or is_loopback(parse_address(address)[0]) or self.insecure):
                raise ValueError(
                    f"{flag} {address} can be reached from other machines, without encryption or authentication; "
                    "listen on 127.0.0.1, or add --insecure inside a trusted network"
                )
        for name, _ in self.adapters:
            if not ADAPTER_NAME.fullmatch(name):
                raise ValueError(
                    f"adapter name {name!r} must be letters, digits, '.', '_' or '-', and start with a letter or digit"
                )
        names = [name for name, _ in self.adapters]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"--adapter names {', '.join(sorted(twice))} twice; give each folder its own name")
        if not 0 <= self.drain_s <= 3600:
            raise ValueError(f"--drain-s is {self.drain_s}; it must lie in 0 … 3600")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """One process's place in the JAX world that hosts share."""

    rendezvous: str
    """HOST:PORT of the coordination service."""
    process: int
    num_processes: int
    per_replica: int = 1
    """Processes that serve one copy of the base together; the first of them is its leader."""
    devices: int = 1
    """Of each process."""
    init_timeout_s: int = 300
    """How long to wait for the others. What is late aborts this process: JAX raises nothing here."""

    @property
    def replica(self) -> range:
        """The processes of this one's replica."""
        first = self.process - self.process % self.per_replica
        return range(first, first + self.per_replica)


def host_name(process: int) -> str:
    """What a cluster calls the host whose leader is this process."""
    return f"host-{process}"


def process_of(host: str) -> int:
    """The process that leads a host: `host_name` the other way."""
    return int(host.removeprefix("host-"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """Everything that one host of a cluster needs to start."""

    name: str
    """What the cluster calls it; no other host may have it."""
    coordinator: str
    """HOST:PORT."""
    fingerprint: str
    """Of model, dtype and software; the coordinator refuses hosts with another one than its own."""
    serve: ServeConfig
    """What it serves, and where others reach it. No `adapters`: hosts load what they are told to, from below
    `adapter_roots`, among which are the folders that the cluster loads at its start."""
    speed: float = 1.0
    """Relative to the host that was profiled."""
    world: WorldConfig | None = None
    """Its place in the shared JAX world; None shares nothing with other hosts."""

    def __post_init__(self) -> None:
        """Refuse what the coordinator would not know of."""
        parse_address(self.coordinator)
        if self.serve.adapters:
            raise ValueError("a host of a cluster loads no adapters of its own; register them with the coordinator")
