"""What starting processes here would stumble over. Owns: the looks that need no JAX, and what to do about it in words.

Does not: change anything, or look at devices and models (doctor.py).
"""

import contextlib
import importlib.util
import os
import resource
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.cluster_config import node_host
from cluster.config import is_loopback, parse_address
from cluster.launch_plan import Plan

_MIN_FILES = 1024
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
_EXEMPTIONS = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One thing looked at, and how it is."""

    grade: Literal["ok", "warning", "broken"]
    subject: str
    words: str


def examine_node(plan: Plan, nodes: frozenset[int], environment: Mapping[str, str]) -> list[Verdict]:
    """What the processes of these nodes of the plan would meet on this machine."""
    return [
        *(port(address, change) for address, change in _addresses(plan, nodes)),
        *_files(plan, nodes),
        *_http(plan, nodes),
        *_host_name(plan),
        *_cache_folder(environment),
        open_files(),
        *_proxies(environment),
    ]


def port(address: str, change: str) -> Verdict:
    """Whether one can listen there; `change` names the flag or key of another address."""
    host, number = parse_address(address)
    try:
        family, *_, where = socket.getaddrinfo(host.strip("[]"), number, type=socket.SOCK_STREAM)[0]
        socket.create_server(where, family=family).close()
    except OSError as error:
        # Python adds the address, resolvers number their errors below 0.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        words = f"{address}: {reason}; choose another with {change}"
        return Verdict(grade="broken", subject="port", words=words)
    return Verdict(grade="ok", subject="port", words=f"{address} is free" if number else f"{address}: a free one")


def open_files() -> Verdict:
    """Whether enough connections can be open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _MIN_FILES:
        words = f"only {soft} allowed; `ulimit -n {_MIN_FILES}` before serving many clients"
        return Verdict(grade="warning", subject="open files", words=words)
    return Verdict(grade="ok", subject="open files", words="enough allowed")


def _addresses(plan: Plan, nodes: frozenset[int]) -> Iterator[tuple[str, str]]:
    """Where these nodes will listen, and the key that says so."""
    config = plan.config
    if plan.head in nodes:
        for key in ("coordinator", "rendezvous", "gateway", "http"):
            if (address := getattr(config, key)) is not None:  # our own field names, listed on the line above
                yield address, f"cluster.{key}"
    for host in plan.hosts:
        if host.node in nodes and parse_address(host.address)[1]:
            yield host.address, "cluster.nodes"


def _files(plan: Plan, nodes: frozenset[int]) -> Iterator[Verdict]:
    """What the configuration names but is not there: hosts read model and adapters, the head the operating points."""
    config = plan.config
    paths: list[tuple[str, Path]] = []
    if any(host.node in nodes for host in plan.hosts):
        paths += [("model.path", config.model)]
        paths += [(f"adapters.preload.{name}", folder) for name, folder in config.preload]
    if plan.head in nodes and config.operating_points is not None:
        paths += [("placement.operating_points", config.operating_points)]
    for key, path in paths:
        if (words := _unreadable(path)) is not None:
            yield Verdict(grade="broken", subject=key, words=f"{words}; name one that this node can read")
    for folder in config.roots:
        if (words := _unreadable(folder)) is not None:
            words += "; adapters below it can come to this node from other hosts alone, until it is there"
            yield Verdict(grade="warning", subject="adapters.roots", words=words)


def _unreadable(path: Path) -> str | None:
    try:
        path.stat()
    except OSError as error:
        return f"is {path}: {error.strerror}"
    return None


def _http(plan: Plan, nodes: frozenset[int]) -> Iterator[Verdict]:
    """HTTP needs libraries that are an optional extra."""
    if plan.config.http is not None and plan.head in nodes and importlib.util.find_spec("uvicorn") is None:
        words = "needs uvicorn, which is not installed; pip install 'lorajax[http]'"
        yield Verdict(grade="broken", subject="cluster.http", words=words)


def _host_name(plan: Plan) -> Iterator[Verdict]:
    """Gloo, which carries collectives between CPUs, listens where the machine's own name leads."""
    config = plan.config
    if config.transfer != "collective" or all(is_loopback(node_host(node)) for node in config.nodes):
        return
    name = socket.gethostname()
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found = {str(where[0]) for *_, where in socket.getaddrinfo(name, None)}
    words = f"{name} is {', '.join(sorted(found)) or 'unknown'}"
    if not found or any(map(is_loopback, found)):
        words += "; CPU hosts of other nodes cannot reach it: give it this node's address in /etc/hosts"
        yield Verdict(grade="warning", subject="host name", words=words)
    else:
        yield Verdict(grade="ok", subject="host name", words=words)


def _cache_folder(environment: Mapping[str, str]) -> Iterator[Verdict]:
    """Whoever can write to the cache of compiled programs can run code here."""
    home = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME", "/")) / ".cache")
    folder = Path(environment.get("JAX_COMPILATION_CACHE_DIR") or Path(home) / "lorajax" / "xla")
    if folder.is_dir() and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Verdict(grade="warning", subject="cache", words=f"others can write to {folder}; `chmod go-w` it")
    else:
        yield Verdict(grade="ok", subject="cache", words=str(folder))


def _proxies(environment: Mapping[str, str]) -> Iterator[Verdict]:
    """Every address that is not exempt goes through the proxy, also with gRPC."""
    small = {name.lower(): value for name, value in environment.items() if value}
    proxies = [name for name in _PROXIES if name in small]
    if proxies and not any(name in small for name in _EXEMPTIONS):
        words = f"{', '.join(proxies)} would carry our own traffic; exempt the nodes with no_proxy"
        yield Verdict(grade="warning", subject="proxy", words=words)
