"""Llama, and with it Mistral, SmolLM2 and TinyLlama. Source: Touvron et al. 2023 (arXiv 2307.09288)."""

import jax
import jax.numpy as jnp
from flax import nnx

from lorajax.models.attention import attend, project_out, project_qkv
from lorajax.models.decoder import Cache, Decoder, Step, weight
from lorajax.spec import ModelSpec


class Attention(nnx.Module):
    """Grouped-query attention with rotary embedding."""

    def __init__(self, spec: ModelSpec, dtype: jnp.dtype) -> None:
        self.qkv = weight(spec.hidden_size, spec.num_kv_heads, spec.group_size + 2, spec.head_dim, dtype=dtype)
        self.out = weight(spec.num_heads * spec.head_dim, spec.hidden_size, dtype=dtype)

    def __call__(self, x: jax.Array, cache: Cache, step: Step) -> tuple[jax.Array, jax.Array]:
        """x[token, hidden] -> (its update, kv)."""
        qkv = project_qkv(x, self.qkv[...], cache.adapters, step).astype(x.dtype)
        attended, kv = attend(qkv[:, :, :-2], qkv[:, :, -2:-1], qkv[:, :, -1:], cache, step)
        return project_out(attended, self.out[...], cache.adapters, step), kv


def build(spec: ModelSpec, dtype: jnp.dtype) -> Decoder:
    """The model with zero weights; call it under `nnx.eval_shape`."""
    return Decoder(spec, Attention, dtype)
