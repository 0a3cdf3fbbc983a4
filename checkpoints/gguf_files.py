"""Base models in GGUF files. Owns: metadata to ModelSpec, tensors to our arrays, row order, what is refused.

Does not: know JAX or tokenizers; read bytes (gguf_header.py does).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from checkpoints import names
from checkpoints.fields import Fields, brief
from checkpoints.gguf_header import GgufFile, open_gguf
from lorajax.errors import MalformedCheckpoint, UnsupportedModel
from lorajax.spec import ModelSpec, RopeSpec

_ARCHITECTURES: Final[dict[str, Literal["llama", "qwen2", "qwen3"]]] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
_ROPE_FACTORS: Final = "rope_freqs.weight"
_REFUSED: Final = (
    "attention.clamp_kqv",
    "attention.scale",
    "attention.sliding_window",
    "expert_count",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "rope.scale_linear",
)
_ROPE_SCALING: Final = frozenset(
    {"type", "factor", "original_context_length", "finetuned", "yarn_beta_fast", "yarn_beta_slow"}
)
_LLAMA3_CONTEXT: Final = 8192
"""Context that every Llama 3.1 … 3.3 was stretched from; a GGUF keeps the stretched frequencies, not how they came."""


def read_spec(path: Path) -> ModelSpec:
    """Shape of the model in a GGUF file.

    Raises: UnsupportedModel naming the key that cannot be served exactly; MalformedCheckpoint for a broken file.
    """
    file = open_gguf(path)
    metadata = Fields(source=path.name, values=file.metadata)
    family = _family(metadata)
    model = Fields(source=path.name, values=_below(metadata, f"{family}."))
    for key in _REFUSED:
        if model.values.get(key):
            raise UnsupportedModel(f"{path.name}: {family}.{key} is {brief(model.values[key])}, which is not served")
    shapes = _shapes(file)
    if "token_embd.weight" not in shapes:
        raise MalformedCheckpoint(f"{path.name}: tensor 'token_embd.weight' is missing")
    hidden, heads = model.whole("embedding_length"), model.whole("attention.head_count")
    head_dim = model.whole("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if model.whole(key, head_dim) != head_dim:
            raise UnsupportedModel(
                f"{path.name}: {family}.{key} is {model.values[key]}; we serve {head_dim}, as keys have"
            )
    try:
        return ModelSpec(
            family=family,
            vocab_size=shapes["token_embd.weight"][0],
            hidden_size=hidden,
            intermediate_size=model.whole("feed_forward_length"),
            num_layers=model.whole("block_count"),
            num_heads=heads,
            num_kv_heads=model.whole("attention.head_count_kv", heads),
            head_dim=head_dim,
            rms_norm_eps=model.number("attention.layer_norm_rms_epsilon"),
            rope=_rope(model, _rope_factors(file), head_dim),
            max_model_len=model.whole("context_length"),
            tied_embeddings="output.weight" not in shapes,
            windows=(None,) * model.whole("block_count"),
            stop_token_ids=_stop_token_ids(metadata),
        )
    except ValueError as error:
        raise MalformedCheckpoint(f"{path.name}: {error}") from None


def read_weights(path: Path, spec: ModelSpec, dtype: npt.DTypeLike) -> Iterator[tuple[str, np.ndarray]]:
    """Our arrays by name, one at a time; names and shapes of all are checked before the first is read.

    Host memory: one of our arrays and one tensor in float32, whatever the size of the model.
    Raises: MalformedCheckpoint naming the first wrong tensor; UnsupportedModel naming a quantisation we cannot read.
    """
    file = open_gguf(path)
    tree = names.weights(spec)
    wanted = {part.gguf: part.shape for weight in tree for part in weight.parts}
    names.check(wanted, _shapes(file), {_ROPE_FACTORS}, path.name)

    def read(part: names.Part) -> np.ndarray:
        values = names.finite(file.read(part.gguf), part.gguf, path.name)
        return half_split(values, part.num_interleaved_heads) if part.num_interleaved_heads else values

    return ((weight.name, names.assemble(weight, read, dtype)) for weight in tree)


def half_split(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of q or k in Hugging Face order (halves of a head rotate together), from pairs of neighbours.

    Source: llama.cpp's conversion of the llama architecture, undone; it leaves other architectures alone.
    """
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _below(metadata: Fields, prefix: str) -> dict[str, object]:
    return {key.removeprefix(prefix): value for key, value in metadata.values.items() if key.startswith(prefix)}


def _family(metadata: Fields) -> Literal["llama", "qwen2", "qwen3"]:
    name = metadata.text("general.architecture")
    if name not in _ARCHITECTURES:
        raise UnsupportedModel(
            f"{metadata.source}: general.architecture is {brief(name)}; we serve {', '.join(_ARCHITECTURES)}"
        )
    return _ARCHITECTURES[name]


def _shapes(file: GgufFile) -> dict[str, names.Shape]:
    return {name: tensor.shape for name, tensor in file.tensors.items()}


def _stop_token_ids(metadata: Fields) -> tuple[int, ...]:
    """Ids that end a sequence, a turn or a message."""
    keys = (f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom"))
    return tuple(dict.fromkeys(metadata.whole(key, low=0) for key in keys if key in metadata.values))


def _rope_factors(file: GgufFile) -> np.ndarray:
    """What each rotary frequency is divided by; empty where the file does not say."""
    return file.read(_ROPE_FACTORS) if _ROPE_FACTORS in file.tensors else np.empty(0, np.float32)


def _rope(model: Fields, factors: np.ndarray, head_dim: int) -> RopeSpec:
    scaling = Fields(source=model.source, values=_below(model, "rope.scaling."))
    unknown = scaling.values.keys() - _ROPE_SCALING
    if unknown:
        raise UnsupportedModel(f"{model.source}: rope.scaling.{min(unknown)} is not served")
    kind, theta = scaling.text("type", "none"), model.number("rope.freq_base", 10_000.0)
    if factors.size and kind == "none":
        return _llama3_rope(factors, theta, head_dim, model.source)
    if factors.size:
        raise UnsupportedModel(f"{model.source}: rope.scaling.type {kind} beside {_ROPE_FACTORS} is not served")
    if kind == "none":
        return RopeSpec(theta=theta)
    if kind == "linear":
        return RopeSpec(theta=theta, kind="linear", factor=scaling.number("factor"))
    if kind == "yarn":
        return RopeSpec(
            theta=theta,
            kind="yarn",
            factor=scaling.number("factor"),
            original_max_len=scaling.whole("original_context_length", model.whole("context_length")),
            beta_fast=scaling.number("yarn_beta_fast", 32.0),
            beta_slow=scaling.number("yarn_beta_slow", 1.0),
        )
    raise UnsupportedModel(f"{model.source}: rope.scaling.type is {brief(kind)}; we serve none, linear, yarn")


def _llama3_rope(factors: np.ndarray, theta: float, head_dim: int, source: str) -> RopeSpec:
    """The llama3 settings whose factors these are; a file keeps the factors alone, so we guess and compare."""
    rope = RopeSpec(theta=theta, kind="llama3", factor=float(factors.max()), original_max_len=_LLAMA3_CONTEXT)
    if factors.shape != (head_dim // 2,) or not np.allclose(factors, llama3_factors(rope, head_dim), rtol=1e-5):
        raise UnsupportedModel(f"{source}: {_ROPE_FACTORS} is not the scaling of Llama 3.1 … 3.3, the only one we know")
    return rope


def llama3_factors(rope: RopeSpec, head_dim: int) -> np.ndarray:
    """What llama3 scaling divides each rotary frequency by, in float32.

    Source: Llama 3.1 model card; llama.cpp stores these as `rope_freqs.weight`.
    """
    wavelength = 2 * math.pi * rope.theta ** (np.arange(0, head_dim, 2) / head_dim)
    turns = rope.original_max_len / wavelength
    share = np.clip((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1)
    return (1 / ((1 - share) / rope.factor + share)).astype(np.float32)
