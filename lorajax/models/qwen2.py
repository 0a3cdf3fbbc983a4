"""Qwen2 and Qwen2.5: biases on q, k and v. Source: Yang et al. 2024 (arXiv 2407.10671)."""

import jax
import jax.numpy as jnp
from flax import nnx

from lorajax.models.attention import attend, project_out, project_qkv
from lorajax.models.decoder import Cache, Decoder, Step, weight
from lorajax.spec import ModelSpec


class Attention(nnx.Module):
    """Grouped-query attention with rotary embedding and biased projections."""

    def __init__(self, spec: ModelSpec, dtype: jnp.dtype) -> None:
        heads = (spec.num_kv_heads, spec.group_size + 2, spec.head_dim)
        self.qkv = weight(spec.hidden_size, *heads, dtype=dtype)
        self.qkv_bias = weight(*heads, dtype=dtype)
        self.out = weight(spec.num_heads * spec.head_dim, spec.hidden_size, dtype=dtype)

    def __call__(self, x: jax.Array, cache: Cache, step: Step) -> tuple[jax.Array, jax.Array]:
        """x[token, hidden] -> (its update, kv)."""
        bias = self.qkv_bias[...].astype(jnp.float32)[None]
        qkv = (project_qkv(x, self.qkv[...], cache.adapters, step) + bias).astype(x.dtype)
        attended, kv = attend(qkv[:, :, :-2], qkv[:, :, -2:-1], qkv[:, :, -1:], cache, step)
        return project_out(attended, self.out[...], cache.adapters, step), kv


def build(spec: ModelSpec, dtype: jnp.dtype) -> Decoder:
    """The model with zero weights; call it under `nnx.eval_shape`."""
    return Decoder(spec, Attention, dtype)
