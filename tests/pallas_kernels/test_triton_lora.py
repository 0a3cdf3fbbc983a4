"""Grouped LoRA in Triton's style, interpreted: the reference's numbers; and it lowers for a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.cases import LORA_CASES
from pallas_kernels.tiles import tiled
from pallas_kernels.triton_lora import grouped_lora
from tests.pallas_kernels import claims
from tests.pallas_kernels.interpreted import MESH
from tests.pallas_kernels.lora_steps import step

MIXED = next(case for case in LORA_CASES if case.name == "unaligned runs")
# Compiling takes longer than running.
kernels = jax.jit(
    functools.partial(grouped_lora, interpret=True), compiler_options={"xla_backend_optimization_level": "0"}
)


def lora(x, pages, work):
    """The op as claims call it: widths become multiples of 64, and float32 is rounded, which keeps its NaN."""
    work = tiled(work, len(x), len(pages[0][0]))
    dtype = jnp.bfloat16 if x.dtype == np.float32 else x.dtype
    wide = lambda m: np.pad(m, [(0, 0)] * (m.ndim - 1) + [(0, -m.shape[-1] % 64)]).astype(dtype)
    updates = kernels(wide(x), tuple((wide(a), wide(b)) for a, b in pages), work)
    return tuple(np.asarray(out)[:, : b.shape[2]] for out, (_, b) in zip(updates, pages, strict=True))


@claims.each_lora_case
def test_agrees_with_the_reference(case):
    claims.lora_agrees(lora, case, "bfloat16")


def test_agrees_with_the_reference_in_float16():
    claims.lora_agrees(lora, MIXED, "float16")


def test_unnamed_pages_are_never_read():
    claims.unnamed_pages_are_never_read(lora, MIXED)


def test_a_broken_token_harms_itself_only():
    claims.a_broken_token_harms_itself_only(lora, MIXED)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("num_tokens", [8, 2048])
@pytest.mark.parametrize("layer", ["Llama-3-8B qkv", "Llama-3-70B over 8, qkv", "SmolLM2-135M qkv"])
def test_lowers_at_real_sizes(layer, num_tokens):
    with jax.sharding.use_abstract_mesh(MESH):
        text = jax.jit(grouped_lora).trace(*step(layer, num_tokens)).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call @__gpu$xla.gpu.triton") == 2


def test_what_it_cannot_take_is_said():
    x, pages, work = claims.lora_inputs(MIXED, "float32")
    with pytest.raises(NotImplementedError, match="got float32, wanted bfloat16 or float16 throughout"):
        grouped_lora(x, pages, tiled(work, len(x), len(pages[0][0])))
