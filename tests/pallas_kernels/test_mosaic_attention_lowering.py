"""The attention kernel lowers for a Hopper GPU at the sizes of real models, on a machine that has none.

Lowering finds what the interpreter does not look at: layouts, swizzles, alignment and too much shared memory.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from pallas_kernels.mosaic_attention import paged_attention
from pallas_kernels.work import AttentionWork
from tests.pallas_kernels.interpreted import H200

HEADS = {
    "Llama-3-8B": (8, 4, 128),
    "Llama-3-70B over 8": (1, 8, 128),
    "Qwen3-0.6B": (8, 2, 128),
    "Qwen2.5-7B": (4, 7, 128),
    "SmolLM2-135M": (3, 3, 64),
}
"""(key/value heads, query heads for each, head size)"""
CONTEXT = 8192


def structs(heads, num_tokens, num_tiles, page_tokens, dtype="bfloat16"):
    """Shapes of one step of at most 64 sequences: queries, cache, work."""
    kv_heads, group, head_dim = heads
    rows = min(num_tokens, 64)
    ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
    work = AttentionWork(
        row=ints(num_tokens),
        position=ints(num_tokens),
        slot=ints(num_tokens),
        table=ints(rows, CONTEXT // page_tokens),
        decode_token=ints(rows),
        num_decode=ints(),
        tile_token=ints(num_tiles),
        tile_count=ints(num_tiles),
        num_tiles=ints(),
    )
    q = jax.ShapeDtypeStruct((num_tokens, kv_heads, group, head_dim), dtype)
    return q, jax.ShapeDtypeStruct((4096, page_tokens, 2, kv_heads, head_dim), dtype), work


def lowered(attention, *args, axes=(), sizes=()):
    """The text of the module for CUDA."""
    mesh = AbstractMesh(sizes, axes, abstract_device=H200, axis_types=(AxisType.Auto,) * len(axes))
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(attention).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def num_launches(text):
    return text.count("stablehlo.custom_call @mosaic_gpu")


@pytest.mark.parametrize("model", HEADS)
def test_steps_of_prompts_and_decoding_lower(model):
    attention = functools.partial(paged_attention, window=None)
    assert num_launches(lowered(attention, *structs(HEADS[model], 2112, 97, 64))) == 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_steps_with_a_window_and_split_keys_lower(dtype):
    attention = functools.partial(paged_attention, window=4096)
    assert num_launches(lowered(attention, *structs(HEADS["Llama-3-8B"], 64, 17, 64, dtype))) == 2


@pytest.mark.parametrize("page_tokens", [8, 16, 32, 128])
def test_other_pages_lower(page_tokens):
    attention = functools.partial(paged_attention, window=None)
    assert lowered(attention, *structs(HEADS["SmolLM2-135M"], 64, 0, page_tokens))


def test_a_step_that_only_decodes_is_one_launch():
    attention = functools.partial(paged_attention, window=None)
    assert num_launches(lowered(attention, *structs(HEADS["Llama-3-8B"], 64, 0, 64))) == 1


def test_lowers_where_heads_are_split_over_a_mesh():
    queries, cache, whole = PartitionSpec(None, "model"), PartitionSpec(None, None, None, "model"), PartitionSpec()

    def attention(q, kv, work):
        local = functools.partial(paged_attention, window=None)
        return jax.shard_map(local, in_specs=(queries, cache, whole), out_specs=queries, check_vma=False)(q, kv, work)

    text = lowered(attention, *structs((8, 8, 128), 64, 17, 64), axes=("model",), sizes=(8,))
    assert "tensor<4096x64x2x1x128xbf16>" in text
