"""The steps of grouped-query attention that families share. Owns: heads, cache writes, the output projection.

A family's own attention (llama.py, qwen2.py, qwen3.py) strings these together and adds what is its own.
"""

import jax
import jax.numpy as jnp

from lorajax.layers import rotate
from lorajax.lora import Adapters
from lorajax.models.decoder import Cache, Step


def project_qkv(x: jax.Array, kernel: jax.Array, adapters: Adapters, step: Step) -> jax.Array:
    """x[token, hidden] by kernel[hidden, kv_head, group + 2, head_dim]: [token, kv_head, group + 2, head_dim].

    For each key/value head its `group` query heads come first, then its key, then its value.
    """
    return adapters.project(step.ops, x, kernel, "q_proj", "k_proj", "v_proj")


def attend(q: jax.Array, k: jax.Array, v: jax.Array, cache: Cache, step: Step) -> tuple[jax.Array, jax.Array]:
    """Rotate q[token, kv_head, group, head_dim] and k, write k and v[token, kv_head, 1, head_dim], attend.

    Returns (attended[token, kv_head * group * head_dim], kv).
    """
    q, k = rotate(q, step.cos, step.sin), rotate(k, step.cos, step.sin)
    both = jnp.stack([k[:, :, 0], v[:, :, 0]], axis=1).astype(cache.kv.dtype)
    flat = cache.kv.reshape(-1, *cache.kv.shape[2:])
    kv = flat.at[step.attention.slot].set(both).reshape(cache.kv.shape)
    out = step.ops.attention(q, kv, step.attention, cache.window)
    return out.reshape(out.shape[0], -1), kv


def project_out(x: jax.Array, kernel: jax.Array, adapters: Adapters, step: Step) -> jax.Array:
    """x[token, heads * head_dim] by kernel[heads * head_dim, hidden]: [token, hidden] in x.dtype."""
    out = adapters.project(step.ops, x, kernel, "o_proj")
    return step.layout.total(out, "heads").astype(x.dtype)
