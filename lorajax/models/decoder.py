"""The pre-norm decoder that every family shares. Owns: block order, embedding, head. Does not: know any attention.

Modules hold weights only; shapes are local to a device, because the step runs inside one `shard_map` (lorajax/mesh.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from lorajax.layers import rms_norm
from lorajax.lora import Adapters
from lorajax.mesh import Layout
from lorajax.spec import ModelSpec
from pallas_kernels.ops import Ops
from pallas_kernels.work import AttentionWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What all layers of one step share; lives only while the step is traced."""

    spec: ModelSpec
    layout: Layout
    ops: Ops
    attention: AttentionWork
    cos: jax.Array  # [token, head_dim / 2] float32
    sin: jax.Array  # [token, head_dim / 2] float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """One layer's own inputs: its KV pages and its adapters."""

    kv: jax.Array  # [page, slot, 2, kv_head, head_dim]
    adapters: Adapters
    window: int | None


class AttentionLayer(Protocol):
    """A family's attention."""

    def __call__(self, x: jax.Array, cache: Cache, step: Step) -> tuple[jax.Array, jax.Array]:
        """x[token, hidden] -> (update of x, kv with this step's keys and values written)."""


def weight(*shape: int, dtype: jnp.dtype) -> nnx.Param[jax.Array]:
    """A parameter of this shape, zeros until a checkpoint fills it."""
    return nnx.Param(jnp.zeros(shape, dtype))


class Mlp(nnx.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x)). Source: Shazeer 2020 (arXiv 2002.05202)."""

    def __init__(self, spec: ModelSpec, dtype: jnp.dtype) -> None:
        self.gate_up = weight(spec.hidden_size, 2, spec.intermediate_size, dtype=dtype)
        self.down = weight(spec.intermediate_size, spec.hidden_size, dtype=dtype)

    def __call__(self, x: jax.Array, adapters: Adapters, step: Step) -> jax.Array:
        """x[token, hidden] -> its update [token, hidden], in x.dtype."""
        both = adapters.project(step.ops, x, self.gate_up[...], "gate_proj", "up_proj").astype(jnp.float32)
        wide = (jax.nn.silu(both[:, 0]) * both[:, 1]).astype(x.dtype)
        out = adapters.project(step.ops, wide, self.down[...], "down_proj")
        return step.layout.total(out, "mlp").astype(x.dtype)


class Block(nnx.Module):
    """One layer: attention, then feed-forward, each behind a norm and added to x."""

    def __init__(self, spec: ModelSpec, attention: AttentionLayer, dtype: jnp.dtype) -> None:
        self.attn_norm = weight(spec.hidden_size, dtype=dtype)
        self.attn = attention
        self.mlp_norm = weight(spec.hidden_size, dtype=dtype)
        self.mlp = Mlp(spec, dtype)

    def __call__(self, x: jax.Array, cache: Cache, step: Step) -> tuple[jax.Array, jax.Array]:
        """x[token, hidden] -> (x, kv)."""
        eps = step.spec.rms_norm_eps
        update, kv = self.attn(rms_norm(x, self.attn_norm[...], eps), cache, step)
        x = x + update
        return x + self.mlp(rms_norm(x, self.mlp_norm[...], eps), cache.adapters, step), kv


class Decoder(nnx.Module):
    """Embedding, blocks, final norm and head of one base model."""

    def __init__(
        self, spec: ModelSpec, attention: Callable[[ModelSpec, jnp.dtype], AttentionLayer], dtype: jnp.dtype
    ) -> None:
        self.embed = weight(spec.vocab_size, spec.hidden_size, dtype=dtype)
        self.layers = nnx.List([Block(spec, attention(spec, dtype), dtype) for _ in range(spec.num_layers)])
        self.final_norm = weight(spec.hidden_size, dtype=dtype)
        self.head = None if spec.tied_embeddings else weight(spec.hidden_size, spec.vocab_size, dtype=dtype)

    def hidden(self, tokens: jax.Array, caches: Sequence[Cache], step: Step) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """tokens[token] int32 -> (hidden[token, hidden] before the final norm, every layer's kv)."""
        x = self._embedded(tokens, step.layout)
        written = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, kv = layer(x, cache, step)
            written.append(kv)
        return x, tuple(written)

    def logits(self, x: jax.Array, step: Step) -> jax.Array:
        """x[token, hidden] -> float32 [token, vocab], whole on every device."""
        x = rms_norm(x, self.final_norm[...], step.spec.rms_norm_eps)
        if self.head is not None:
            return step.layout.gathered(step.ops.logits(x, self.head[...]), "vocab")
        tied = jax.lax.dot_general(x, self.embed[...], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        return step.layout.gathered(tied, "vocab")

    def _embedded(self, tokens: jax.Array, layout: Layout) -> jax.Array:
        """Rows of the embedding; a device that does not hold a token's row adds zeros."""
        table = self.embed[...]
        local = tokens - layout.index("vocab") * table.shape[0]
        held = (local >= 0) & (local < table.shape[0])
        rows = jnp.where(held[:, None], table[jnp.where(held, local, 0)], jnp.zeros((), table.dtype))
        return layout.total(rows, "vocab")
