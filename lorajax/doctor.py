"""Preflight of this machine. Owns: what is looked at, and what to do about it in words. Does not: change anything."""

import importlib.metadata
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import psutil

from checkpoints import base, names, tokenizer
from cluster.config import format_bytes
from cluster.launch_plan import Plan
from lorajax.bundled import HOW_TO_GET_MODEL
from lorajax.chat import NoChatTemplate
from lorajax.config import EngineConfig
from lorajax.errors import LorajaxError
from lorajax.preflight import Verdict, examine_node, open_files, port
from lorajax.spec import ModelSpec

_HEADROOM = 1.25
"""Device memory wanted per byte of the plan: activations, compiled code, fragments."""


def examine(model: str | None, grpc: str, engine: EngineConfig) -> list[Verdict]:
    """Everything that `serve` would need of this machine, worst surprises first found here."""
    return [
        _python(),
        _packages(),
        *_devices(engine.tensor_parallel, "--tp"),
        port(grpc, "--grpc"),
        open_files(),
        *_model(model, engine, num_devices=engine.tensor_parallel, num_hosts=1),
    ]


def examine_cluster(plan: Plan, nodes: frozenset[int], environment: Mapping[str, str]) -> list[Verdict]:
    """Everything that `launch` would need of this machine for these nodes of the plan."""
    config = plan.config
    num_hosts = sum(host.node in nodes for host in plan.hosts)
    num_devices = num_hosts * config.devices_per_process
    return [
        _python(),
        _packages(),
        *_devices(num_devices, "cluster.devices_per_process"),
        *examine_node(plan, nodes, environment),
        *_model(str(config.model), config.engine, num_devices=num_devices, num_hosts=num_hosts),
    ]


def _python() -> Verdict:
    version = ".".join(map(str, sys.version_info[:3]))
    return Verdict(grade="ok", subject="python", words=f"{version}, {sys.executable}")


def _packages() -> Verdict:
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("lorajax", "jax", "jaxlib", "flax", "grpcio"))
    return Verdict(grade="ok", subject="packages", words=", ".join(versions))


def _devices(wanted: int, change: str) -> Iterator[Verdict]:
    try:
        devices = jax.devices()
    except RuntimeError as error:  # how JAX says that its backend did not start
        yield Verdict(grade="broken", subject="devices", words=f"JAX finds none: {error}; is the driver installed?")
        return
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    # A CPU counts as many devices as are asked for (cluster/launch.py says so to JAX).
    is_enough = devices[0].platform == "cpu" or wanted <= len(devices)
    words = f"{len(devices)} x {devices[0].platform} ({kinds}), {psutil.cpu_count()} CPU cores"
    if is_enough:
        yield Verdict(grade="ok", subject="devices", words=words)
    else:
        yield Verdict(grade="broken", subject="devices", words=f"{words}; {change} wants {wanted}")


def _model(model: str | None, engine: EngineConfig, *, num_devices: int, num_hosts: int) -> Iterator[Verdict]:
    """The model, then the memory that serving it would take."""
    if model is None:
        yield Verdict(grade="broken", subject="model", words=f"none; name one with --model, or {HOW_TO_GET_MODEL}")
        return
    try:
        spec = base.read_spec(Path(model))
        base.check(Path(model), spec)
    except LorajaxError as error:
        yield Verdict(grade="broken", subject="model", words=str(error))
        return
    shape = f"{spec.family}, {spec.num_layers} layers, hidden {spec.hidden_size}, context {spec.max_model_len} tokens"
    yield Verdict(grade="ok", subject="model", words=f"{model}: {shape}")
    yield _tokenizer(Path(model))
    yield _memory(spec, engine, num_devices, num_hosts)


def _tokenizer(model: Path) -> Verdict:
    try:
        encoder, template = tokenizer.load(model)
    except LorajaxError as error:
        return Verdict(grade="broken", subject="tokenizer", words=str(error))
    chats = "no chat template" if isinstance(template, NoChatTemplate) else "a chat template"
    return Verdict(grade="ok", subject="tokenizer", words=f"{encoder.vocab_size} tokens, {chats}")


def _memory(spec: ModelSpec, engine: EngineConfig, num_devices: int, num_hosts: int) -> Verdict:
    """The plan of one device against what it has; CPU devices and hosts of this machine share its memory."""
    value_bytes = jnp.dtype(engine.dtype).itemsize
    weights = sum(math.prod(weight.shape) for weight in names.weights(spec)) * value_bytes // engine.tensor_parallel
    wanted = int((weights + engine.kv_bytes + engine.adapter_bytes) * _HEADROOM)
    device = jax.devices()[0]
    is_cpu = device.platform == "cpu"
    if is_cpu:
        wanted = wanted * num_devices + engine.host_adapter_bytes * num_hosts
    free = psutil.virtual_memory().available if is_cpu else int((device.memory_stats() or {}).get("bytes_limit", 0))
    plan = (
        f"weights {format_bytes(weights)}, KV {format_bytes(engine.kv_bytes)}, adapters "
        f"{format_bytes(engine.adapter_bytes)} per device: {format_bytes(wanted)} with headroom,"
        f" {format_bytes(free)} free"
    )
    if wanted > free:
        return Verdict(grade="broken", subject="memory", words=f"{plan}; lower --kv-bytes or --adapter-bytes")
    return Verdict(grade="ok", subject="memory", words=plan)
