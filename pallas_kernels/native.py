"""The CPU kernels of cpu/ as ops. Owns: building them once per machine, and the calls into them.

Does not: choose itself (ops.py does). Where there is no C++ compiler it says so and the XLA formulation serves.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxlib import version as jaxlib_version

from pallas_kernels.work import AttentionWork, LoraWork

_SOURCES = Path(__file__).with_name("cpu")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-w", "-shared", "-fPIC")
_LORA, _ATTENTION = "lorajax_lora", "lorajax_attention"
_PROJECT, _ADAPTED = "lorajax_project", "lorajax_adapted"
_PANEL = 32
"""Columns that lie together in packed weights."""


def load(folder: Path, compiler: str | None) -> None:
    """Build the kernels into `folder`, unless it holds them already, and make them known to XLA. About 10 s, once.

    `compiler` is a command line such as the CXX of makefiles; None looks for c++, g++ or clang++ on the PATH.
    Raises: NotImplementedError saying in one line why they cannot be built or loaded here.
    """
    try:
        library = folder / _name()
        with contextlib.suppress(OSError):  # there is none yet, or a damaged one
            return _register(str(library))
        with _alone(folder):
            with contextlib.suppress(OSError):
                return _register(str(library))
            _build(library, compiler)
        _register(str(library))
    except (OSError, AttributeError) as error:  # AttributeError: a library without our symbols
        raise NotImplementedError(f"they cannot be built and loaded in {folder}: {error}") from None


def projects(dtype: np.dtype, widths: Sequence[tuple[int, int]]) -> bool:
    """Whether `project` serves weights of this dtype and these (in, out) widths on this processor; after `load`."""
    fits = all(width_in % 2 == 0 and width_out % _PANEL == 0 for width_in, width_out in widths)
    return fits and dtype == jnp.bfloat16 and _PROJECT in _registered


def packed(kernel: jax.Array) -> jax.Array:
    """The weights kernel[in, …] in the order that `project` reads, in an array of the same shape."""
    flat = np.asarray(kernel).reshape(kernel.shape[0] // 2, 2, -1, _PANEL)
    return jax.device_put(flat.transpose(2, 0, 3, 1).reshape(kernel.shape), kernel.sharding)


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x[token, in] by a `packed` kernel[in, …]: float32 [token, …]."""
    flat = kernel.reshape(kernel.shape[0], -1)
    call = jax.ffi.ffi_call(_PROJECT, jax.ShapeDtypeStruct((x.shape[0], flat.shape[1]), jnp.float32))
    return call(x, flat).reshape(x.shape[0], *kernel.shape[1:])


def adapted(
    _ops: object,
    x: jax.Array,
    kernel: jax.Array,
    pages: Sequence[tuple[jax.Array, jax.Array]],
    work: LoraWork,
) -> jax.Array:
    """`project` and `grouped_lora` as one kernel: see `Ops.adapted`.

    Raises: NotImplementedError where a panel would belong to two targets.
    """
    flat = kernel.reshape(kernel.shape[0], -1)
    groups = math.prod(kernel.shape[1:-2])
    if any(b.shape[2] % (groups * _PANEL) for _, b in pages):
        raise NotImplementedError(f"want targets of whole panels of {_PANEL} columns in {groups} groups")
    call = jax.ffi.ffi_call(_ADAPTED, jax.ShapeDtypeStruct((x.shape[0], flat.shape[1]), jnp.float32))
    out = call(x, flat, *_arguments(pages, work), groups=np.int64(groups))
    return out.reshape(x.shape[0], *kernel.shape[1:])


_registered: set[str] = set()
"""What the loaded library has: one processor's build may lack a kernel that another's has."""


@functools.cache
def _register(library: str) -> None:
    loaded = ctypes.CDLL(library)
    if hasattr(loaded, "LorajaxProject"):  # a foreign object: built only where the processor can
        jax.ffi.register_ffi_target(_PROJECT, jax.ffi.pycapsule(loaded.LorajaxProject), platform="cpu")
        jax.ffi.register_ffi_target(_ADAPTED, jax.ffi.pycapsule(loaded.LorajaxAdapted), platform="cpu")
        _registered.add(_PROJECT)
    for name, symbol in ((_LORA, "LorajaxLora"), (_ATTENTION, "LorajaxAttention")):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(loaded, symbol)), platform="cpu")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Processes that start together build once: the others wait here for the first."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _name() -> str:
    """One library for these sources, jaxlib and processor: code for one processor may not run on another."""
    sources = [path.read_text() for path in sorted(_SOURCES.glob("*.*"))]
    key = "\n".join((*sources, jaxlib_version.__version__, *_FLAGS, platform.machine(), _processor()))
    return f"cpu_kernels_{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"


def _build(library: Path, compiler: str | None) -> None:
    words = _words(compiler)
    # Built beside and renamed: a build that is cut, or another process's, never leaves half a library.
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        unfinished = Path(scratch) / library.name
        sources = map(str, sorted(_SOURCES.glob("*.cc")))
        command = [*words, *_FLAGS, f"-I{jax.ffi.include_dir()}", *sources, "-o", str(unfinished)]
        built = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if built.returncode:
            said = built.stderr.strip().splitlines() or [f"exit code {built.returncode}"]
            raise NotImplementedError(f"{shlex.join(words)} cannot build them: {said[0]}")
        unfinished.rename(library)


def _words(compiler: str | None) -> list[str]:
    try:
        words = shlex.split(compiler or "")
    except ValueError as error:
        raise NotImplementedError(f"the compiler {compiler!r} is not a command line: {error}") from None
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not words and found is None:
        raise NotImplementedError("no C++ compiler (c++, g++ or clang++); install one, such as Debian's g++")
    return words or [str(found)]


def _processor() -> str:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def grouped_lora(x: jax.Array, pages: Sequence[tuple[jax.Array, jax.Array]], work: LoraWork) -> tuple[jax.Array, ...]:
    """Same meaning as `xla_lora.grouped_lora`; each page of each distinct run is read once."""
    results = [jax.ShapeDtypeStruct((x.shape[0], b.shape[2]), jnp.float32) for _, b in pages]
    return tuple(jax.ffi.ffi_call(_LORA, results)(x, *_arguments(pages, work)))


def _arguments(pages: Sequence[tuple[jax.Array, jax.Array]], work: LoraWork) -> list[jax.Array]:
    flat = [array for pair in pages for array in pair]
    return [work.page, work.start, work.count, work.weight, work.num_items, *flat]


def paged_attention(q: jax.Array, kv: jax.Array, work: AttentionWork, window: int | None) -> jax.Array:
    """Same meaning as `reference.paged_attention`; keys are read where they lie."""
    call = jax.ffi.ffi_call(_ATTENTION, jax.ShapeDtypeStruct(q.shape, q.dtype))
    return call(q, kv, work.row, work.position, work.table, window=np.int64(window or 0))
