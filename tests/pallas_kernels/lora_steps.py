"""Linear layers of real models and the shapes of steps through them. Owns: what is lowered and compiled in tests."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tiles import tiled
from pallas_kernels.work import LoraWork

LAYERS = {
    "Llama-3-8B qkv": (4096, (4096, 1024, 1024)),
    "Llama-3-8B out": (4096, (4096,)),
    "Llama-3-8B gate and up": (4096, (14336, 14336)),
    "Llama-3-8B down": (14336, (4096,)),
    "Llama-3-70B over 8, qkv": (8192, (1024, 128, 128)),
    "Llama-3-70B over 8, out": (1024, (8192,)),
    "Llama-3-70B over 8, gate and up": (8192, (3584, 3584)),
    "Llama-3-70B over 8, down": (3584, (8192,)),
    "Qwen3-8B gate and up": (4096, (12288, 12288)),
    "Qwen3-0.6B qkv": (1024, (2048, 1024, 1024)),
    "SmolLM2-135M qkv": (576, (576, 192, 192)),
    "SmolLM2-135M down": (1536, (576,)),
}
"""(in, out of each target)"""

GROUPS = {"Llama-3-8B qkv": 8, "Qwen3-0.6B qkv": 8, "SmolLM2-135M qkv": 3}
"""Key and value heads of a device, where they are several: their columns lie together, with those of their queries."""


def step(layer, num_tokens, dtype="bfloat16"):
    """(x, pages of each target, work) as shapes, of at most 32 sequences and a pool of 512 pages."""
    width_in, widths_out = LAYERS[layer]
    items = np.zeros(min(num_tokens, 32) * 128, np.int32)
    empty = LoraWork(page=items, start=items, count=items, weight=items.astype(np.float32), num_items=np.int32(0))
    pool = lambda width: jax.ShapeDtypeStruct((512, 8, width), jnp.dtype(dtype))
    pages = tuple((pool(width_in), pool(width)) for width in widths_out)
    work = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tiled(empty, num_tokens, 1))
    return jax.ShapeDtypeStruct((num_tokens, width_in), jnp.dtype(dtype)), pages, work


def weights(layer, dtype="bfloat16"):
    """The layer's weights as a shape, as models hold them: [in, group, part, width]."""
    width_in, widths_out = LAYERS[layer]
    groups = GROUPS.get(layer, 1)
    return jax.ShapeDtypeStruct((width_in, groups, sum(widths_out) // groups // 64, 64), jnp.dtype(dtype))
