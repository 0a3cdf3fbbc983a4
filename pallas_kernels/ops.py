"""The public ops: the fast formulation where it fits, the reference otherwise. Owns: the choice. Does not: compute."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from pallas_kernels import (
    mosaic_attention,
    mosaic_lora,
    native,
    reference,
    tiles,
    triton_lora,
    xla_attention,
    xla_lora,
)
from pallas_kernels.work import AttentionWork, LoraWork

_log = logging.getLogger(__name__)

type Page = tuple[jax.Array, jax.Array]
type Lora = Callable[[jax.Array, tuple[Page, ...], LoraWork], tuple[jax.Array, ...]]
type Adapted = Callable[["Ops", jax.Array, jax.Array, tuple[Page, ...], LoraWork], jax.Array]
type Project = Callable[[jax.Array, jax.Array], jax.Array]
type Attention = Callable[[jax.Array, jax.Array, AttentionWork, int | None], jax.Array]
type Prepare = Callable[[LoraWork, int, int], LoraWork]


def _separately(ops: "Ops", x: jax.Array, kernel: jax.Array, pages: tuple[Page, ...], work: LoraWork) -> jax.Array:
    """The product, then the updates of its targets: for each group of the kernel, a part of every target in order."""
    updates = ops.lora(x, pages, work)
    parts = [update.reshape(len(x), *kernel.shape[1:-2], -1, kernel.shape[-1]) for update in updates]
    return ops.project(x, kernel) + jnp.concatenate(parts, axis=-2).reshape(len(x), *kernel.shape[1:])


@dataclass(frozen=True, slots=True)
class Ops:
    """One implementation of every op; a value the runner is given, not a flag it reads.

    lora(x[token, in], ((a[page, row, in], b[page, row, out]), …), work) -> float32 [token, out] of each pair.
    project(x[token, in], kernel[in, …]) -> [token, …] as layers go on with it: float32, or rounded once to x.dtype;
    `kernel` went through `pack`, which keeps its shape.
    adapted(ops, x, kernel[in, group …, part, width], pages, work) -> `project` plus `lora`: each group of columns is a
    part of every target, side by side.
    logits(x, kernel) -> `project` in float32.
    attention(q[token, kv_head, group, head_dim], kv[page, slot, 2, kv_head, head_dim], work, window) -> like q.
    prepare(work, num_tokens, num_pages) -> the work with what `lora` reads beside it; numpy, once for all layers.
    """

    name: str
    lora: Lora
    attention: Attention
    project: Project = reference.project
    adapted: Adapted = _separately
    logits: Project = reference.project
    pack: Callable[[jax.Array], jax.Array] = lambda kernel: kernel
    prepare: Prepare = lambda work, num_tokens, num_pages: work


def _reference_lora(x: jax.Array, pages: tuple[Page, ...], work: LoraWork) -> tuple[jax.Array, ...]:
    return tuple(reference.grouped_lora(x, a, b, work) for a, b in pages)


def _or[**P, R](fast: Callable[P, R], slow: Callable[P, R]) -> Callable[P, R]:
    """The fast op, and the slow one for what the fast one does not take; the log says so once for each reason."""

    def op(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return fast(*args, **kwargs)
        except NotImplementedError as error:
            _say_once(f"{fast.__module__} does not take this, {slow.__module__} serves instead: {error}")
            return slow(*args, **kwargs)

    return op


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)


REFERENCE = Ops("reference", _reference_lora, reference.paged_attention)
XLA = Ops("xla", xla_lora.grouped_lora, xla_attention.paged_attention)
NATIVE = Ops("native", native.grouped_lora, native.paged_attention)
PACKED = replace(
    NATIVE,
    project=native.project,
    logits=native.project,
    adapted=_or(native.adapted, _separately),
    pack=native.packed,
)
"""`NATIVE` with its own product over packed weights, updates included, where `native.projects`."""
MOSAIC = Ops(
    "mosaic",
    _or(mosaic_lora.grouped_lora, xla_lora.grouped_lora),
    _or(mosaic_attention.paged_attention, xla_attention.paged_attention),
    project=reference.rounded_project,
    adapted=_or(mosaic_lora.adapted, _separately),
    prepare=tiles.tiled,
)
"""For Hopper GPUs."""
TRITON = replace(MOSAIC, name="triton", lora=_or(triton_lora.grouped_lora, xla_lora.grouped_lora), adapted=_separately)


def named(name: str) -> Ops:
    """The implementation a user asked for by name.

    Raises: ValueError listing the names there are.
    """
    known = {ops.name: ops for ops in (REFERENCE, XLA, NATIVE, MOSAIC, TRITON)}
    if name not in known:
        raise ValueError(f"--kernels {name!r} is not one of {', '.join(known)}")
    return known[name]
