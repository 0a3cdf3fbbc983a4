"""The LoRA kernels lower for a Hopper GPU at the sizes of real models, on a machine that has none.

Lowering finds what the interpreter does not look at: layouts, swizzles, alignment and too much shared memory.
"""

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from pallas_kernels.mosaic_lora import grouped_lora
from tests.pallas_kernels.interpreted import H200
from tests.pallas_kernels.lora_steps import LAYERS, step


def lowered(lora, *args, axes=(), sizes=()):
    """The text of the module for CUDA."""
    mesh = AbstractMesh(sizes, axes, abstract_device=H200, axis_types=(AxisType.Auto,) * len(axes))
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(lora).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def num_launches(text):
    return text.count("stablehlo.custom_call @mosaic_gpu")


@pytest.mark.parametrize("layer", [name for name in LAYERS if not name.endswith(("B out", "down"))])
def test_a_decoding_step_is_two_launches(layer):
    assert num_launches(lowered(grouped_lora, *step(layer, 32))) == 2


@pytest.mark.parametrize("layer", ["Llama-3-8B qkv", "Llama-3-70B over 8, gate and up", "SmolLM2-135M qkv"])
def test_a_step_with_prompts_is_two_launches(layer):
    assert num_launches(lowered(grouped_lora, *step(layer, 2048))) == 2


@pytest.mark.parametrize(("num_tokens", "dtype"), [(1, "bfloat16"), (72, "float16"), (256, "bfloat16")])
def test_other_steps_lower(num_tokens, dtype):
    assert num_launches(lowered(grouped_lora, *step("Qwen3-0.6B qkv", num_tokens, dtype))) == 2


def test_layers_share_one_lowering():
    x, pages, work = step("SmolLM2-135M down", 8)

    def layers(x, pages, work):
        return [grouped_lora(x, pages, work.shifted(i * 128)) for i in range(4)]

    assert num_launches(lowered(layers, x, pages, work)) == 2


def test_lowers_where_columns_are_split_over_a_mesh():
    x, pages, work = step("Llama-3-8B qkv", 32)
    whole, columns = PartitionSpec(), PartitionSpec(None, None, "model")
    specs = (whole, ((whole, columns),) * 3, whole)

    def lora(x, pages, work):
        out = (PartitionSpec(None, "model"),) * 3
        return jax.shard_map(grouped_lora, in_specs=specs, out_specs=out, check_vma=False)(x, pages, work)

    text = lowered(lora, x, pages, work, axes=("model",), sizes=(8,))
    assert num_launches(text) == 2
    assert "tensor<512x8x512xbf16>" in text
    assert "all_reduce" not in text


def test_rows_that_are_split_over_a_mesh_need_one_sum():
    x, pages, work = step("Llama-3-8B down", 32)
    whole, rows = PartitionSpec(), PartitionSpec(None, None, "model")

    def lora(x, pages, work):
        return jax.lax.psum(grouped_lora(x, pages, work)[0], "model")

    specs = (PartitionSpec(None, "model"), ((rows, whole),), whole)
    mapped = lambda *args: jax.shard_map(lora, in_specs=specs, out_specs=whole, check_vma=False)(*args)
    text = lowered(mapped, x, pages, work, axes=("model",), sizes=(8,))
    assert num_launches(text) == 2
    assert "tensor<512x8x1792xbf16>" in text
    assert text.count("stablehlo.all_reduce") == 1
