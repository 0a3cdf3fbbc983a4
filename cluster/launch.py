"""The composition root: from a config value to a running process. Owns: the environment, logging, cache folders.

Does not: start JAX (device.py), serve (worker.py) or parse flags (cli_serve.py).
"""

import asyncio
import contextlib
import importlib
import logging
import os
import platform
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
from prometheus_client import CollectorRegistry

from checkpoints import base, peft, tokenizer
from cluster import device, memory, process, replica
from cluster.catalogue import Catalogue
from cluster.collective import WorldLinks
from cluster.config import HostConfig, ServeConfig, WorldConfig, is_loopback, parse_address, process_of
from cluster.membership import MemberConfig, Membership
from cluster.metrics import Metrics
from cluster.seams import MAX_METADATA_BYTES, Alone, NoFront, Parts, Template, Tokenizer, WorkerConfig
from cluster.step_log import StepLog
from cluster.tickets import COLLECTIVE_THREAD
from cluster.watchdog import Watchdog, end_process
from cluster.worker import MakeFront, MakeMember, Worker
from cluster.worker import serve as serve_worker
from lorajax.cli_types import EXIT_FAILED
from lorajax.engine import Engine
from lorajax.errors import LorajaxError
from lorajax.runner import COMPILER_THREAD, Runner, Steps
from lorajax.spec import ModelSpec

_log = logging.getLogger("lorajax")
_HOST_METADATA_BYTES = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """The base model in memory, not compiled yet."""

    spec: ModelSpec
    tokenizer: Tokenizer
    template: Template
    runner: Runner


@dataclass(frozen=True, slots=True)
class _Role:
    """What a process is, beside what it serves."""

    command: str
    host: str
    make_member: MakeMember
    world: WorldConfig | None = None


def serve(config: ServeConfig) -> int:
    """Run one serving process until it is told to go; returns its exit code, an error's after one line that says why.

    0 after a drain, 2 where a flag has to change, 1 for what else goes wrong.
    """
    role = _Role("serve", platform.node() or "localhost", lambda *_: Alone())
    return _exit_code(config, role)


def run_host(config: HostConfig) -> int:
    """Run one host of a cluster until it is told to go; returns its exit code as `serve` does.

    It says hello to the coordinator before it compiles, and serves whether or not there is one.
    """
    member = MemberConfig(
        coordinator=config.coordinator,
        fingerprint=config.fingerprint,
        incarnation=time.time_ns(),
        host_bytes=config.serve.engine.host_adapter_bytes,
        max_sequences=config.serve.engine.max_sequences,
        speed=config.speed,
        links=None if config.world is None else WorldLinks(process_of),
    )
    make_member = partial(Membership, member)
    return _exit_code(config.serve, _Role("host", config.name, make_member, config.world))


def _exit_code(config: ServeConfig, role: _Role) -> int:
    code = process.run(role.command, partial(_run, config, role))
    if any(thread.name.startswith((COMPILER_THREAD, COLLECTIVE_THREAD)) for thread in threading.enumerate()):
        # XLA and a collective can be neither interrupted nor left to run while the interpreter ends; ours is closed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(config: ServeConfig, role: _Role) -> int:
    """What a flag can get wrong comes first, then what takes long; all before the loop, so that signals end it."""
    make_front = _make_front(config.http)
    for flag, address in (("--grpc", config.grpc), ("--http", config.http)):
        if address is not None:
            process.check_free(flag, address)
    spec = base.read_spec(Path(config.model))
    _check_adapters(config, spec)
    loaded = _load(config, spec, role.world)
    if role.world is not None and role.world.process != role.world.replica.start:
        return replica.follow(loaded.runner, role.world, _progress)
    return asyncio.run(_serve(config, role, loaded, make_front))


def _check_adapters(config: ServeConfig, spec: ModelSpec) -> None:
    """Read every adapter once, and keep none: together they may take more memory than they may have later.

    Raises: ValueError naming the flag.
    """
    for name, folder in config.adapters:
        try:
            peft.read(Path(folder), spec, jnp.dtype(config.engine.dtype))
        except LorajaxError as error:
            raise ValueError(f"--adapter {name}={folder}: {error}") from None


def _load(config: ServeConfig, spec: ModelSpec, place: WorldConfig | None) -> _Loaded:
    path = Path(config.model)
    _progress("starting JAX")
    layout = device.layout(spec, config.engine.dtype, config.engine.tensor_parallel, place)
    _progress(f"loading weights of {path.name}")
    encoder, template = tokenizer.load(path)
    if encoder.vocab_size > spec.vocab_size:
        counts = encoder.vocab_size, spec.vocab_size
        _log.warning("the tokenizer has %d tokens, the model %d: prompts with those beyond are refused", *counts)
    weights = base.load(path, spec, lambda name: layout.sharding(layout.weight(name)), jnp.dtype(config.engine.dtype))
    return _Loaded(
        spec=spec, tokenizer=encoder, template=template, runner=device.make_runner(config, spec, layout, weights)
    )


async def _serve(config: ServeConfig, role: _Role, loaded: _Loaded, make_front: MakeFront) -> int:
    loop = asyncio.get_running_loop()
    failed = loop.create_future()

    def on_failure() -> None:
        loop.call_soon_threadsafe(failed.set_result, None)

    read = partial(peft.read, model=loaded.spec, dtype=jnp.dtype(config.engine.dtype))
    members = replica.Replica(loaded.runner, role.world, parse_address(config.grpc)[0])
    engine = Engine(
        loaded.spec,
        config.engine,
        _watched(_logged(members.runner, role.host)),
        read_adapter=lambda folder, expected: read(folder, expect=expected),
        on_failure=on_failure,
    )
    parts = Parts(
        engine=engine,
        tokenizer=loaded.tokenizer,
        template=loaded.template,
        catalogue=Catalogue(),
        metrics=Metrics(CollectorRegistry()),
        read_adapter=read,
    )

    async def prepare(worker: Worker) -> None:
        failed.add_done_callback(lambda _: worker.hurry())
        await _prepare(config, members, engine, worker)

    on_ready = partial(_ready, config, loaded)
    try:
        worker_config = _worker_config(config, role, loaded.spec)
        await serve_worker(worker_config, parts, prepare, on_ready, make_front, role.make_member)
    finally:
        engine.stop()
        members.stop()
    return EXIT_FAILED if failed.done() else 0


def _logged(steps: Steps, host: str) -> Steps:
    """The steps, told line by line where somebody wants to know what they take."""
    folder = os.environ.get("LORAJAX_STEP_LOG")
    return StepLog(steps, (Path(folder) / f"{host}.jsonl").open("w", buffering=1)) if folder else steps


def _watched(steps: Steps) -> Steps:
    """The steps, and the end of this process where one never returns."""
    watchdog = Watchdog(steps, end_process)
    watchdog.start()
    return watchdog


async def _prepare(config: ServeConfig, members: replica.Replica, engine: Engine, worker: Worker) -> None:
    # On a thread of its own: asyncio waits for the end of those it lends.
    own = ThreadPoolExecutor(1, "preparation")
    await asyncio.get_running_loop().run_in_executor(own, members.compile, _progress)
    engine.start()
    for name, folder in config.adapters:
        _progress(f"loading adapter {name}")
        await worker.load(name, Path(folder))
    memory.give_back()


def _worker_config(config: ServeConfig, role: _Role, spec: ModelSpec) -> WorkerConfig:
    return WorkerConfig(
        host=role.host,
        max_metadata_bytes=_HOST_METADATA_BYTES if role.command == "host" else MAX_METADATA_BYTES,
        address=config.grpc,
        model_name=Path(config.model).name,
        model=spec,
        software_version=version("lorajax"),
        kv_page_tokens=config.engine.kv_page_tokens,
        adapter_roots=tuple(Path(root) for root in config.adapter_roots),
        drain_s=config.drain_s,
    )


def _make_front(http: str | None) -> MakeFront:
    """What answers HTTP; its libraries are an optional extra, so they are imported only where it is asked for."""
    if http is None:
        return lambda *_: NoFront()
    try:
        return partial(importlib.import_module("cluster.http_host").host_front, http)
    except ModuleNotFoundError as error:
        raise ValueError(f"--http needs {error.name}, which is not installed; pip install 'lorajax[http]'") from None


def _progress(text: str) -> None:
    _log.info("PROGRESS %s", text)


def _ready(config: ServeConfig, loaded: _Loaded, addresses: dict[str, str]) -> None:
    for address in addresses.values():
        if not is_loopback(parse_address(address)[0]):
            _log.warning("anyone who reaches %s can use it: no encryption, no authentication", address)
    where = " ".join(f"{protocol}={address}" for protocol, address in addresses.items())
    with contextlib.suppress(BrokenPipeError):
        print(  # noqa: T201  # the contract with whoever started us
            f"READY {where} model={Path(config.model).name} family={loaded.spec.family} "
            f"adapters={len(config.adapters)} kernels={loaded.runner.kernels} pid={os.getpid()}",
            flush=True,
        )
