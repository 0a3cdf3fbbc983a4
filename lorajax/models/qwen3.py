"""Qwen3 (dense): every query and key head is normed before rotation. Source: Yang et al. 2025 (arXiv 2505.09388)."""

import jax
import jax.numpy as jnp
from flax import nnx

from lorajax.layers import rms_norm
from lorajax.models.attention import attend, project_out, project_qkv
from lorajax.models.decoder import Cache, Decoder, Step, weight
from lorajax.spec import ModelSpec


class Attention(nnx.Module):
    """Grouped-query attention with rotary embedding and normed queries and keys."""

    def __init__(self, spec: ModelSpec, dtype: jnp.dtype) -> None:
        self.qkv = weight(spec.hidden_size, spec.num_kv_heads, spec.group_size + 2, spec.head_dim, dtype=dtype)
        self.q_norm = weight(spec.head_dim, dtype=dtype)
        self.k_norm = weight(spec.head_dim, dtype=dtype)
        self.out = weight(spec.num_heads * spec.head_dim, spec.hidden_size, dtype=dtype)

    def __call__(self, x: jax.Array, cache: Cache, step: Step) -> tuple[jax.Array, jax.Array]:
        """x[token, hidden] -> (its update, kv)."""
        qkv = project_qkv(x, self.qkv[...], cache.adapters, step).astype(x.dtype)
        eps = step.spec.rms_norm_eps
        q, k = rms_norm(qkv[:, :, :-2], self.q_norm[...], eps), rms_norm(qkv[:, :, -2:-1], self.k_norm[...], eps)
        attended, kv = attend(q, k, qkv[:, :, -1:], cache, step)
        return project_out(attended, self.out[...], cache.adapters, step), kv


def build(spec: ModelSpec, dtype: jnp.dtype) -> Decoder:
    """The model with zero weights; call it under `nnx.eval_shape`."""
    return Decoder(spec, Attention, dtype)
