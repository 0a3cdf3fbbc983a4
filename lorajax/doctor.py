"""Preflight of this machine. Owns: what is looked at, and what to do about it in words. Does not: change anything."""

import importlib.metadata
import math
import resource
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import psutil

from checkpoints import base, names
from cluster.config import format_bytes, parse_address
from lorajax.bundled import HOW_TO_GET_MODEL
from lorajax.config import EngineConfig
from lorajax.errors import LorajaxError
from lorajax.spec import ModelSpec

_MIN_FILES = 1024
_HEADROOM = 1.25
"""Device memory wanted per byte of the plan: activations, compiled code, fragments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One thing looked at, and how it is."""

    grade: Literal["ok", "warning", "broken"]
    subject: str
    words: str


def examine(model: str | None, grpc: str, engine: EngineConfig) -> list[Verdict]:
    """Everything that `serve` would need of this machine, worst surprises first found here."""
    return [_python(), _packages(), *_devices(engine), _port(grpc), _open_files(), *_model(model, engine)]


def _python() -> Verdict:
    version = ".".join(map(str, sys.version_info[:3]))
    return Verdict(grade="ok", subject="python", words=f"{version}, {sys.executable}")


def _packages() -> Verdict:
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("lorajax", "jax", "jaxlib", "flax", "grpcio"))
    return Verdict(grade="ok", subject="packages", words=", ".join(versions))


def _devices(engine: EngineConfig) -> Iterator[Verdict]:
    try:
        devices = jax.devices()
    except RuntimeError as error:  # how JAX says that its backend did not start
        yield Verdict(grade="broken", subject="devices", words=f"JAX finds none: {error}; is the driver installed?")
        return
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    # A CPU counts as many devices as are asked for (cluster/launch.py says so to JAX).
    is_enough = devices[0].platform == "cpu" or engine.tensor_parallel <= len(devices)
    words = f"{len(devices)} x {devices[0].platform} ({kinds}), {psutil.cpu_count()} CPU cores"
    if is_enough:
        yield Verdict(grade="ok", subject="devices", words=words)
    else:
        yield Verdict(grade="broken", subject="devices", words=f"{words}; --tp {engine.tensor_parallel} needs more")


def _port(grpc: str) -> Verdict:
    host, port = parse_address(grpc)
    try:
        with socket.create_server((host.strip("[]"), port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return Verdict(grade="ok", subject="port", words=f"{grpc} is free")
    except OSError as error:
        return Verdict(grade="broken", subject="port", words=f"{grpc}: {error.strerror}; choose another with --grpc")


def _open_files() -> Verdict:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _MIN_FILES:
        words = f"only {soft} allowed; `ulimit -n {_MIN_FILES}` before serving many clients"
        return Verdict(grade="warning", subject="open files", words=words)
    return Verdict(grade="ok", subject="open files", words="enough allowed")


def _model(model: str | None, engine: EngineConfig) -> Iterator[Verdict]:
    """The model, then the memory that serving it would take."""
    if model is None:
        yield Verdict(grade="broken", subject="model", words=f"none; name one with --model, or {HOW_TO_GET_MODEL}")
        return
    try:
        spec = base.read_spec(Path(model))
    except LorajaxError as error:
        yield Verdict(grade="broken", subject="model", words=str(error))
        return
    shape = f"{spec.family}, {spec.num_layers} layers, hidden {spec.hidden_size}, context {spec.max_model_len} tokens"
    yield Verdict(grade="ok", subject="model", words=f"{model}: {shape}")
    yield _memory(spec, engine)


def _memory(spec: ModelSpec, engine: EngineConfig) -> Verdict:
    """The plan of one device against what it has; on a CPU the host's share comes out of the same memory."""
    value_bytes = jnp.dtype(engine.dtype).itemsize
    weights = sum(math.prod(weight.shape) for weight in names.weights(spec)) * value_bytes // engine.tensor_parallel
    wanted = int((weights + engine.kv_bytes + engine.adapter_bytes) * _HEADROOM)
    device = jax.devices()[0]
    is_cpu = device.platform == "cpu"
    if is_cpu:
        wanted = wanted * engine.tensor_parallel + engine.host_adapter_bytes
    free = psutil.virtual_memory().available if is_cpu else int((device.memory_stats() or {}).get("bytes_limit", 0))
    plan = (
        f"weights {format_bytes(weights)}, KV {format_bytes(engine.kv_bytes)}, adapters "
        f"{format_bytes(engine.adapter_bytes)} per device: {format_bytes(wanted)} with headroom,"
        f" {format_bytes(free)} free"
    )
    if wanted > free:
        return Verdict(grade="broken", subject="memory", words=f"{plan}; lower --kv-bytes or --adapter-bytes")
    return Verdict(grade="ok", subject="memory", words=plan)
