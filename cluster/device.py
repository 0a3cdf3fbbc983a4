"""One replica's devices. Owns: starting JAX on them, which kernels they run, and the folders of what was compiled.

Does not: load weights, or serve.
"""

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from cluster import world
from cluster.config import ServeConfig, WorldConfig
from lorajax.mesh import Layout, make_mesh
from lorajax.packing import packed, widths
from lorajax.runner import Runner
from lorajax.spec import ModelSpec
from pallas_kernels import native, ops

_LOG = logging.getLogger("lorajax")


def make_runner(config: ServeConfig, spec: ModelSpec, layout: Layout, weights: dict[str, jax.Array]) -> Runner:
    """The device half with the kernels asked for, and the weights, taken over, as those want them; compiles nothing."""
    chosen = _ops(config.kernels)
    is_alone = config.engine.tensor_parallel == 1  # packed weights cannot be split
    if chosen is ops.NATIVE and is_alone and native.projects(jnp.dtype(config.engine.dtype), widths(spec)):
        chosen = ops.PACKED
        spec, weights = packed(spec, weights, chosen)
    return Runner(spec, config.engine, layout, chosen, weights)


def _ops(name: str) -> ops.Ops:
    """The kernels asked for by name; "auto" is the fastest that this machine can build and JAX's backend can run."""
    backend = jax.default_backend()
    if name in (ops.MOSAIC.name, ops.TRITON.name) and backend != "gpu":
        raise ValueError(f"--kernels {name}: they are for NVIDIA GPUs, and JAX runs on {backend}; use --kernels auto")
    if name not in ("auto", ops.NATIVE.name):
        return ops.named(name)
    if name == "auto" and backend != "cpu":
        return ops.MOSAIC if backend == "gpu" and _is_hopper(jax.devices()[0]) else ops.XLA
    try:
        _load_native(backend)
    except (NotImplementedError, OSError) as error:
        if name == ops.NATIVE.name:
            raise ValueError(f"--kernels native: {error}; or use --kernels xla") from None
        _LOG.warning("CPU kernels not built, using the slower XLA formulation: %s", error)
        return ops.XLA
    return ops.NATIVE


def _is_hopper(device: jax.Device) -> bool:
    return str(getattr(device, "compute_capability", "")).startswith("9.")  # a field of GPUs alone


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


def layout(spec: ModelSpec, dtype: str, tensor_parallel: int, place: WorldConfig | None = None) -> Layout:
    """Start JAX with its persistent compilation cache, on the devices of one replica: this process's, or its world's.

    Raises: ValueError if there are too few.
    """
    jax.config.update("jax_default_matmul_precision", _matmul_precision(dtype))
    if (folder := _cache_folder()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if place is not None:
        world.join(place)
        return Layout.of(spec, make_mesh(world.devices_of(place.replica), tensor_parallel))
    if tensor_parallel > 1:
        # Only the CPU backend reads it: a laptop gets as many devices as were asked for.
        jax.config.update("jax_num_cpu_devices", tensor_parallel)
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
        _LOG.warning("nothing compiled is kept for the next start: %s", error)
        return None
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _LOG.warning("%s can be written by others, so it is not used; chmod go-w it", folder)
        return None
    return folder
