"""Weights in the order that kernels read them. Owns: which weights are packed. Does not: know that order."""

from dataclasses import replace

import jax

from lorajax.spec import ModelSpec
from pallas_kernels.ops import Ops

_LINEAR = ("attn.qkv", "attn.out", "mlp.gate_up", "mlp.down")


def widths(spec: ModelSpec) -> tuple[tuple[int, int], ...]:
    """(in, out) of every kernel that is packed."""
    queries, wide = spec.num_heads * spec.head_dim, spec.intermediate_size
    qkv = spec.num_kv_heads * (spec.group_size + 2) * spec.head_dim
    hidden = spec.hidden_size
    return (hidden, qkv), (queries, hidden), (hidden, 2 * wide), (wide, hidden), (hidden, spec.vocab_size)


def packed(spec: ModelSpec, weights: dict[str, jax.Array], ops: Ops) -> tuple[ModelSpec, dict[str, jax.Array]]:
    """The model and its weights, by dotted name, as `ops.project` reads them; takes them out of `weights` one by one.

    A tied head becomes an array of its own: the embedding is looked up by rows, which packing would scatter.
    Host memory: one array above the result, where nobody else holds the weights.
    """
    out = {}
    if spec.tied_embeddings:
        out["head"] = ops.pack(weights["embed"].T)
    for name in list(weights):
        weight = weights.pop(name)
        out[name] = ops.pack(weight) if name == "head" or name.endswith(_LINEAR) else weight
    return replace(spec, tied_embeddings=False), out
