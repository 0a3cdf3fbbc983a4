"""The correctness part on any machine: small layers, GPU kernels interpreted. Owns: how they are interpreted there.

Does not: check real sizes, or that a GPU does what its interpreter does.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from benchmarks.kernels import lora_tasks, ours, peer_files
from benchmarks.kernels.bank import TOLERANCE, Bank, error_of
from benchmarks.kernels.cases import TOY, TOY_CASES, Case
from benchmarks.kernels.run import ROOT, Options
from benchmarks.kernels.turns import Child
from lorajax.errors import LorajaxError
from pallas_kernels import mosaic_lora, triton_lora
from pallas_kernels.cases import AttentionCase, attention_arrays
from pallas_kernels.mosaic_attention import Tuning as AttentionTuning
from pallas_kernels.mosaic_attention import attend
from pallas_kernels.mosaic_parts import Tuning
from pallas_kernels.reference import paged_attention

_GPU = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", platform="gpu", num_cores=132)
_SMALL = Tuning(splits=1, in_block=64, out_block=64, in_launch=3, out_launch=2, overlaps=False)
_PEERS_S = 240.0
_QUICK = {"xla_backend_optimization_level": "0"}
"""Compiling would take longer than running."""
_ATTENTION = AttentionCase(
    name="decode",
    sequences=((0, 1), (62, 1), (63, 1), (200, 1)),
    num_tokens=8,
    num_sequences=4,
    num_tiles=0,
    num_pages=20,
    max_model_len=256,
    kv_heads=1,
    group=4,
    head_dim=64,
    page_tokens=64,
)


def toy_bank(folder: Path, dtype: str, seed: int) -> Bank:
    """Small layers and cases, filled, with what the reference makes of them."""
    bank = Bank(folder, TOY, TOY_CASES, dtype, seed)
    bank.fill(jnp.dtype(dtype))
    device = lora_tasks.Device(bank)
    for case in bank.cases:
        device.keep_wanted(case)
    return bank


def lora_errors(bank: Bank, forms: Sequence[lora_tasks.Form] = lora_tasks.FORMS) -> Iterator[tuple[str, float, float]]:
    """(implementation and case, relative error, tolerance) of ours."""
    device = lora_tasks.Device(bank, _QUICK)
    interpreted = {
        ours.MOSAIC: partial(mosaic_lora.updates, tune=lambda *_: _SMALL),
        ours.TRITON: partial(triton_lora.updates, interpret=True),
    }
    for form in forms:
        small = replace(form, update=interpreted.get(form.update, form.update), most_layers=1)
        for case in bank.cases:
            yield f"{form.name}, {case.name}", _lora_error(device, small, case), TOLERANCE[bank.dtype]


def _lora_error(device: lora_tasks.Device, form: lora_tasks.Form, case: Case) -> float:
    is_mosaic = form.name in ("mosaic", "mosaic+add", "padded")
    with _interpreted() if is_mosaic else contextlib.nullcontext():
        call, _ = device.call(form, case)
        return device.error(form, case, jax.block_until_ready(call()))


def attention_error(seed: int) -> float:
    """Relative error of decode attention, with a plain product for the one instruction that is not interpreted."""
    arrays = attention_arrays(_ATTENTION, jnp.dtype("bfloat16"), seed)
    tuning = AttentionTuning(decode_ring_bytes=1, tile_ring_bytes=1, split_tokens=128)
    kernel = jax.jit(lambda q, kv, work: attend(q, kv, work, None, tuning, _product), compiler_options=_QUICK)
    work = jax.tree.map(jnp.asarray, arrays.work)
    live = len(_ATTENTION.sequences)
    with _interpreted():
        actual = np.asarray(kernel(arrays.q, arrays.kv, work), np.float32)[:live]
    wanted = np.asarray(paged_attention(jnp.asarray(arrays.q), jnp.asarray(arrays.kv), work, None), np.float32)[:live]
    return error_of([actual], [wanted])


def peer_errors(bank: Bank, files: Path, python: Path) -> Iterator[tuple[str, float, float]]:
    """The same of the peers' kernels, interpreted by a Python with torch and triton; infinite where they failed."""
    command = (str(python), "-m", "benchmarks.kernels.peer_worker", "--bank", str(bank.save()), "--files", str(files))
    child = Child(command, ROOT, {**os.environ, "TRITON_INTERPRET": "1"}, bank.folder / "log")
    for name, found in child.outcomes(time.monotonic() + _PEERS_S):
        if name != "peers":
            said = f" ({found['error']})" if "error" in found else ""
            case, _, form = name.partition("/")
            yield f"{form}, {case}{said}", found.get("relative_error", float("inf")), TOLERANCE[bank.dtype]


def show(options: Options) -> None:
    """Print every error beside what is allowed. Raises: LorajaxError where one is larger."""
    with tempfile.TemporaryDirectory(prefix="lorajax-kernels-") as folder:
        bank = toy_bank(Path(folder), "float16", options.seed)
        rows = [*lora_errors(bank), ("attention, decode", attention_error(options.seed), TOLERANCE["bfloat16"])]
        if options.has_peers:
            peer_files.provide(options.peers_dir)
            rows += peer_errors(bank, options.peers_dir.resolve(), options.peers_python)
    for name, error, allowed in rows:
        print(f"{name:40} {error:.2g} of at most {allowed:g}")
    if wrong := [name for name, error, allowed in rows if not error <= allowed]:
        raise LorajaxError(f"{len(wrong)} of {len(rows)} differ from the reference, {wrong[0]} the first")


def _product(total: jax.Array, a: jax.Array, b: jax.Ref) -> jax.Array:
    values = b[...]
    plgpu.commit_smem()  # TMA may overwrite what wgmma has read, but not what a thread has
    return total + jnp.matmul(a.astype(jnp.float32), values.astype(jnp.float32))


@contextlib.contextmanager
def _interpreted() -> Iterator[None]:
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=_GPU)
    with jax.sharding.use_abstract_mesh(mesh), plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams()):
        yield
