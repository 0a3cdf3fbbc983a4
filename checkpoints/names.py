"""The one table of weight names: our tree, Hugging Face, GGUF. Owns: what goes where, and how it is turned.

Does not: read files. Our tree is flat: dotted names, linear layers stored [in, out] (the others store [out, in]).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import EllipsisType

import numpy as np
import numpy.typing as npt

from checkpoints.fields import brief
from lorajax.errors import MalformedCheckpoint
from lorajax.spec import ModelSpec

type Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One foreign tensor, and where its values lie in our array."""

    hf: str
    gguf: str
    shape: Shape
    """As Hugging Face and GGUF have it: [out, in] for a linear layer."""
    place: tuple[int | slice | EllipsisType, ...] = (...,)
    """Index into our array."""
    is_transposed: bool = True
    num_interleaved_heads: int = 0
    """Heads whose rows a llama-architecture GGUF stores in rotary pairs; 0 where rows are as in Hugging Face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One array of our tree, and the foreign tensors it is put together from."""

    name: str
    shape: Shape
    parts: tuple[Part, ...]


def weights(spec: ModelSpec) -> tuple[Weight, ...]:
    """Every array of a model's tree, in the order of its layers."""
    hidden, vocab = spec.hidden_size, spec.vocab_size
    embed = Part(hf="model.embed_tokens.weight", gguf="token_embd.weight", shape=(vocab, hidden), is_transposed=False)
    norm = Part(hf="model.norm.weight", gguf="output_norm.weight", shape=(hidden,))
    head = Part(hf="lm_head.weight", gguf="output.weight", shape=(vocab, hidden))
    return (
        Weight(name="embed", shape=(vocab, hidden), parts=(embed,)),
        *(_in_layer(weight, layer) for layer in range(spec.num_layers) for weight in _layer(spec)),
        Weight(name="final_norm", shape=(hidden,), parts=(norm,)),
        *(() if spec.tied_embeddings else (Weight(name="head", shape=(hidden, vocab), parts=(head,)),)),
    )


def _layer(spec: ModelSpec) -> Iterator[Weight]:
    """The table of one layer; `_in_layer` puts the layer's number before each name."""
    hidden, wide, size = spec.hidden_size, spec.intermediate_size, spec.head_dim
    heads, kv_heads, group = spec.num_heads, spec.num_kv_heads, spec.group_size
    q = Part(
        hf="self_attn.q_proj.weight",
        gguf="attn_q.weight",
        shape=(heads * size, hidden),
        place=(..., slice(group), slice(None)),
        num_interleaved_heads=heads if spec.family == "llama" else 0,
    )
    k = Part(
        hf="self_attn.k_proj.weight",
        gguf="attn_k.weight",
        shape=(kv_heads * size, hidden),
        place=(..., group, slice(None)),
        num_interleaved_heads=kv_heads if spec.family == "llama" else 0,
    )
    v = Part(
        hf="self_attn.v_proj.weight",
        gguf="attn_v.weight",
        shape=(kv_heads * size, hidden),
        place=(..., group + 1, slice(None)),
    )
    gate = Part(hf="mlp.gate_proj.weight", gguf="ffn_gate.weight", shape=(wide, hidden), place=(slice(None), 0))
    up = Part(hf="mlp.up_proj.weight", gguf="ffn_up.weight", shape=(wide, hidden), place=(slice(None), 1))
    yield _alone("attn_norm", "input_layernorm.weight", "attn_norm.weight", (hidden,))
    yield Weight(name="attn.qkv", shape=(hidden, kv_heads, group + 2, size), parts=(q, k, v))
    if spec.family == "qwen2":
        yield Weight(name="attn.qkv_bias", shape=(kv_heads, group + 2, size), parts=(_bias(q), _bias(k), _bias(v)))
    if spec.family == "qwen3":
        yield _alone("attn.q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", (size,))
        yield _alone("attn.k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", (size,))
    yield _alone("attn.out", "self_attn.o_proj.weight", "attn_output.weight", (hidden, heads * size))
    yield _alone("mlp_norm", "post_attention_layernorm.weight", "ffn_norm.weight", (hidden,))
    yield Weight(name="mlp.gate_up", shape=(hidden, 2, wide), parts=(gate, up))
    yield _alone("mlp.down", "mlp.down_proj.weight", "ffn_down.weight", (hidden, wide))


def _alone(name: str, hf: str, gguf: str, shape: Shape) -> Weight:
    """A weight made of one tensor, transposed."""
    return Weight(name=name, shape=shape[::-1], parts=(Part(hf=hf, gguf=gguf, shape=shape),))


def _bias(part: Part) -> Part:
    """The bias beside a linear layer's weight."""
    hf, gguf = (name.replace(".weight", ".bias") for name in (part.hf, part.gguf))
    return replace(part, hf=hf, gguf=gguf, shape=part.shape[:1])


def _in_layer(weight: Weight, layer: int) -> Weight:
    parts = tuple(
        replace(part, hf=f"model.layers.{layer}.{part.hf}", gguf=f"blk.{layer}.{part.gguf}") for part in weight.parts
    )
    return replace(weight, name=f"layers.{layer}.{weight.name}", parts=parts)


def assemble(weight: Weight, read: Callable[[Part], np.ndarray], dtype: npt.DTypeLike) -> np.ndarray:
    """Our array, cast to `dtype`; its parts are read one at a time.

    Host memory: the result and one part.
    """
    out = np.empty(weight.shape, dtype)
    for part in weight.parts:
        place, values = out[part.place], read(part)
        place[...] = (values.T if part.is_transposed else values).reshape(place.shape)
    return out


def finite(values: np.ndarray, name: str, source: str) -> np.ndarray:
    """The values of a tensor. Raises: MalformedCheckpoint if any is NaN or infinite, for then every answer would be."""
    if not _is_finite(values):
        raise MalformedCheckpoint(f"{source}: tensor {name!r} has NaN or infinite values; copy or convert it again")
    return values


def _is_finite(values: np.ndarray) -> bool:
    """As `np.isfinite(values).all()`; of 16 bits, where what is no number comes last as integers, 7 x faster."""
    if not values.size or values.dtype.itemsize != 2 or values.dtype.kind == "i":
        return bool(np.isfinite(values).all())
    infinity = int(np.asarray(np.inf, values.dtype).view(np.int16))
    return bool(values.view(np.int16).max() < infinity and values.view(np.uint16).max() < 2**15 + infinity)


def check(wanted: Mapping[str, Shape], found: Mapping[str, Shape], ignored: Collection[str], source: str) -> None:
    """Refuse a model whose tensors are not exactly the wanted ones; names in `ignored` may be there or not.

    Raises: MalformedCheckpoint naming the first tensor that is missing, too many or wrongly shaped.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        raise MalformedCheckpoint(f"{source}: tensor {missing[0]!r} is missing, {len(missing)} in all")
    extra = [name for name in found if name not in wanted and name not in ignored]
    if extra:
        raise MalformedCheckpoint(f"{source}: tensor {brief(extra[0])} has no place in this model, {len(extra)} in all")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise MalformedCheckpoint(
                f"{source}: tensor {name!r} has shape {list(found[name])}; its settings want {list(shape)}"
            )
