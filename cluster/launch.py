"""The composition root: from a config value to a running process. Owns: the environment, logging, cache folders.

The only module that reads the environment or starts JAX. Does not: serve (worker.py) or parse flags (cli_serve.py).
"""

import asyncio
import contextlib
import importlib
import logging
import os
import platform
import socket
import stat
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
from prometheus_client import CollectorRegistry

from checkpoints import base, peft, tokenizer
from cluster.catalogue import Catalogue
from cluster.config import ServeConfig, is_loopback, parse_address
from cluster.metrics import Metrics
from cluster.seams import NoFront, Parts, Template, Tokenizer, WorkerConfig
from cluster.worker import MakeFront, Worker
from cluster.worker import serve as serve_worker
from lorajax.cli_types import EXIT_FAILED, EXIT_USAGE
from lorajax.engine import Engine
from lorajax.errors import LorajaxError
from lorajax.mesh import Layout, make_mesh
from lorajax.packing import packed, widths
from lorajax.runner import COMPILER_THREAD, Runner
from lorajax.spec import ModelSpec
from pallas_kernels import native, ops

_log = logging.getLogger("lorajax")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """The base model in memory, not compiled yet."""

    spec: ModelSpec
    tokenizer: Tokenizer
    template: Template
    runner: Runner


def serve(config: ServeConfig) -> int:
    """Run one serving process until it is told to go; returns its exit code, an error's after one line that says why.

    0 after a drain, 2 where a flag has to change, 1 for what else goes wrong.
    """
    # A library we import puts its own handler on the root logger.
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    logging.getLogger("jax").setLevel(logging.WARNING)
    code = _outcome(config)
    if any(thread.name.startswith(COMPILER_THREAD) for thread in threading.enumerate()):
        # XLA can be neither interrupted nor left to run while the interpreter ends. All that is ours is closed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _outcome(config: ServeConfig) -> int:
    try:
        return _run(config)
    except ValueError as error:
        return _failed(error, EXIT_USAGE)
    except (LorajaxError, OSError) as error:
        return _failed(error, EXIT_FAILED)
    except Exception as error:  # noqa: BLE001  # the border of this process: ends it, and may not wait for XLA
        _log.critical("a bug or a broken device", exc_info=error)
        return _failed(error, EXIT_FAILED)


def _failed(error: Exception, code: int) -> int:
    words = " ".join(str(error).split()) or type(error).__name__
    print(f"lorajax serve: {words}", file=sys.stderr)  # noqa: T201  # the last word to whoever started us
    return code


def _run(config: ServeConfig) -> int:
    """What a flag can get wrong comes first, then what takes long; all before the loop, so that signals end it."""
    make_front = _make_front(config.http)
    for flag, address in (("--grpc", config.grpc), ("--http", config.http)):
        if address is not None:
            _check_free(flag, address)
    spec = base.read_spec(Path(config.model))
    _check_adapters(config, spec)
    return asyncio.run(_serve(config, _load(config, spec), make_front))


def _check_free(flag: str, address: str) -> None:
    """Raises: ValueError if nobody could listen there."""
    host, port = parse_address(address)
    try:
        family, *_, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        socket.create_server(where, family=family).close()
    except OSError as error:
        raise ValueError(f"cannot listen on {address}: {error.strerror}; choose another {flag} HOST:PORT") from None


def _check_adapters(config: ServeConfig, spec: ModelSpec) -> None:
    """Read every adapter once, and keep none: together they may take more memory than they may have later.

    Raises: ValueError naming the flag.
    """
    for name, folder in config.adapters:
        try:
            peft.read(Path(folder), spec, jnp.dtype(config.engine.dtype))
        except LorajaxError as error:
            raise ValueError(f"--adapter {name}={folder}: {error}") from None


def _load(config: ServeConfig, spec: ModelSpec) -> _Loaded:
    path = Path(config.model)
    _progress("starting JAX")
    jax.config.update("jax_default_matmul_precision", _matmul_precision(config.engine.dtype))
    layout = _layout(spec, config.engine.tensor_parallel)
    _progress(f"loading weights of {path.name}")
    encoder, template = tokenizer.load(path)
    if encoder.vocab_size > spec.vocab_size:
        counts = encoder.vocab_size, spec.vocab_size
        _log.warning("the tokenizer has %d tokens, the model %d: prompts with those beyond are refused", *counts)
    dtype = jnp.dtype(config.engine.dtype)
    weights = base.load(path, spec, lambda name: layout.sharding(layout.weight(name)), dtype)
    runner = make_runner(config, spec, layout, weights)
    return _Loaded(spec=spec, tokenizer=encoder, template=template, runner=runner)


async def _serve(config: ServeConfig, loaded: _Loaded, make_front: MakeFront) -> int:
    loop = asyncio.get_running_loop()
    failed = loop.create_future()

    def on_failure() -> None:
        loop.call_soon_threadsafe(failed.set_result, None)

    read = partial(peft.read, model=loaded.spec, dtype=jnp.dtype(config.engine.dtype))
    engine = Engine(
        loaded.spec,
        config.engine,
        loaded.runner,
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
        await _prepare(config, loaded.runner, engine, worker)

    on_ready = partial(_ready, config, loaded)
    try:
        await serve_worker(_worker_config(config, loaded.spec), parts, prepare, on_ready, make_front)
    finally:
        engine.stop()
    return EXIT_FAILED if failed.done() else 0


async def _prepare(config: ServeConfig, runner: Runner, engine: Engine, worker: Worker) -> None:
    # On a thread of its own: asyncio waits for the end of those it lends.
    own = ThreadPoolExecutor(1, "preparation")
    await asyncio.get_running_loop().run_in_executor(own, runner.compile, _progress)
    engine.start()
    for name, folder in config.adapters:
        _progress(f"loading adapter {name}")
        await worker.load(name, Path(folder))


def _worker_config(config: ServeConfig, spec: ModelSpec) -> WorkerConfig:
    return WorkerConfig(
        host=platform.node() or "localhost",
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
        return partial(importlib.import_module("cluster.http_front").http_front, http)
    except ModuleNotFoundError as error:
        raise ValueError(f"--http needs {error.name}, which is not installed; pip install 'lorajax[http]'") from None


def make_runner(config: ServeConfig, spec: ModelSpec, layout: Layout, weights: dict[str, jax.Array]) -> Runner:
    """The device half with the kernels that were asked for, and the weights as those want them; nothing is compiled."""
    chosen = _ops(config.kernels)
    is_alone = config.engine.tensor_parallel == 1  # packed weights cannot be split
    if chosen is ops.NATIVE and is_alone and native.projects(jnp.dtype(config.engine.dtype), widths(spec)):
        chosen = ops.PACKED
        spec, weights = packed(spec, weights, chosen)
    return Runner(spec, config.engine, layout, chosen, weights)


def _ops(name: str) -> ops.Ops:
    """The kernels asked for by name; "auto" is the fastest that this machine can build and JAX's backend can run."""
    if name not in ("auto", ops.NATIVE.name):
        return ops.named(name)
    backend = jax.default_backend()
    if name == "auto" and backend != "cpu":
        return ops.XLA
    try:
        _load_native(backend)
    except (NotImplementedError, OSError) as error:
        if name == ops.NATIVE.name:
            raise ValueError(f"--kernels native: {error}; or use --kernels xla") from None
        _log.warning("CPU kernels not built, using the slower XLA formulation: %s", error)
        return ops.XLA
    return ops.NATIVE


def _load_native(backend: str) -> None:
    if backend != "cpu":
        raise NotImplementedError(f"they are for CPUs, and JAX runs on {backend}; set JAX_PLATFORMS=cpu")
    folder = _private_folder("kernels")
    # Once loaded, a library needs its file no more.
    unkept = contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory(prefix="lorajax-")
    with unkept as place:
        native.load(Path(place), os.environ.get("CXX"))


def _matmul_precision(dtype: str) -> str | None:
    """JAX's setting: who asks for float32 wants its digits, but an NVIDIA GPU would multiply in TF32. CPUs never do."""
    return "highest" if dtype == "float32" else None


def _layout(spec: ModelSpec, tensor_parallel: int) -> Layout:
    """Start JAX with its persistent compilation cache, on enough devices."""
    if tensor_parallel > 1:
        # Only the CPU backend reads it: a laptop gets as many devices as were asked for.
        jax.config.update("jax_num_cpu_devices", tensor_parallel)
    if (folder := _cache_folder()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return Layout.of(spec, make_mesh(jax.devices(), tensor_parallel))


def _cache_folder() -> Path | None:
    """Where compiled programs are kept between runs, if anywhere."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    return _private_folder("xla")


def _private_folder(name: str) -> Path | None:
    """A cache folder that is ours alone: whoever can write there can run code here. None where there can be none."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorajax" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except (OSError, RuntimeError) as error:
        _log.warning("nothing compiled is kept for the next start: %s", error)
        return None
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _log.warning("%s can be written by others, so it is not used; chmod go-w it", folder)
        return None
    return folder


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
