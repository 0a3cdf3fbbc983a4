"""Where and with what a result was made. Owns: what every JSON of results says besides its numbers."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jax

type Facts = dict[str, object]


def facts(peer_versions: Mapping[str, str]) -> Facts:
    """Device, processor, cores that this process may use, versions, command."""
    return without_device() | {"device": jax.devices()[0].device_kind, "versions": {**_versions(), **peer_versions}}


def without_device() -> Facts:
    """The same for who drives a server, whose device is not ours to start JAX on."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "machine_cores": os.cpu_count(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    names = ("lorajax", "jax", "jaxlib", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = next((line for line in lines if line.startswith("model name")), "")
    return found.partition(":")[2].strip() or platform.processor()
