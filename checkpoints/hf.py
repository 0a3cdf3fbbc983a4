"""Base models in Hugging Face folders. Owns: config.json to ModelSpec, .safetensors to our arrays, what is refused.

Does not: know JAX, tokenizers or adapters. What `transformers` would compute is served exactly, or refused by name.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from checkpoints import names
from checkpoints.fields import Fields, brief, read_fields
from checkpoints.safetensors_files import TensorFiles
from lorajax.errors import MalformedCheckpoint, UnsupportedModel
from lorajax.spec import ModelSpec, RopeSpec

MAX_TENSORS: Final = 65536

_FAMILIES: Final[dict[str, Literal["llama", "qwen2", "qwen3"]]] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_ROPE_KINDS: Final[dict[str, Literal["none", "linear", "llama3", "yarn"]]] = {
    "default": "none",
    "linear": "linear",
    "llama3": "llama3",
    "yarn": "yarn",
}
_SERVED: Final[dict[str, tuple[object, ...]]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "quantization_config": (),
}
"""Settings that change the arithmetic, and the values we compute exactly; null and absent are fine."""
_SERVED_IN_ROPE: Final[dict[str, tuple[object, ...]]] = {
    "partial_rotary_factor": (1,),
    "mscale": (),
    "mscale_all_dim": (),
    "truncate": (True,),
    "full_attention": (),
    "sliding_attention": (),
}
_IGNORED: Final = re.compile(r"(model\.layers\.\d+\.self_attn\.|model\.)rotary_emb\.inv_freq")
"""Buffers that old exports saved beside the weights."""


def read_spec(folder: Path) -> ModelSpec:
    """Shape of the model in a folder, from config.json and generation_config.json.

    Raises: UnsupportedModel naming the key that cannot be served exactly; MalformedCheckpoint naming a missing or
        wrong key.
    """
    config = read_fields(folder / "config.json")
    family = _family(config)
    _refuse_others(config, _SERVED)
    heads = config.whole("num_attention_heads")
    is_llama = family == "llama" and not _is_mistral(config)
    max_len = config.whole("max_position_embeddings")
    num_layers = config.whole("num_hidden_layers")
    try:
        return ModelSpec(
            family=family,
            vocab_size=config.whole("vocab_size"),
            hidden_size=config.whole("hidden_size"),
            intermediate_size=config.whole("intermediate_size"),
            num_layers=num_layers,
            num_heads=heads,
            num_kv_heads=config.whole("num_key_value_heads", heads if is_llama else None),
            head_dim=config.whole("head_dim", 128 if family == "qwen3" else config.whole("hidden_size") // heads),
            rms_norm_eps=config.number("rms_norm_eps"),
            rope=_rope(config, max_len),
            max_model_len=max_len,
            tied_embeddings=config.flag("tie_word_embeddings", default=False),
            windows=_windows(config, family, num_layers),
            stop_token_ids=_stop_token_ids(folder, config),
        )
    except ValueError as error:
        raise MalformedCheckpoint(f"{config.source}: {error}") from None


def read_weights(folder: Path, spec: ModelSpec, dtype: npt.DTypeLike) -> Iterator[tuple[str, np.ndarray]]:
    """Our arrays by name, one at a time; names and shapes of all are checked before the first is read.

    Host memory: one of our arrays and one of the file's tensors, whatever the size of the model.
    Raises: MalformedCheckpoint naming the first wrong tensor; UnsupportedModel for pickled weights.
    """
    files = _open(folder)
    tree = names.weights(spec)
    wanted = {part.hf: part.shape for weight in tree for part in weight.parts}
    found = {name: entry.shape for name, entry in files.entries.items()}
    head, embed = "lm_head.weight", "model.embed_tokens.weight"
    has_only_head = spec.tied_embeddings and head in found and embed not in found
    if has_only_head:  # whoever wrote the file kept one name for both, and this is the first of the alphabet
        found[embed] = found.pop(head)
    ignored = {name for name in found if _IGNORED.fullmatch(name)} | ({head} if spec.tied_embeddings else set())
    names.check(wanted, found, ignored, folder.name)
    if spec.tied_embeddings and head in found and not np.array_equal(files.read(head), files.read(embed)):
        raise UnsupportedModel(
            f"config.json: tie_word_embeddings is true, but {head} differs from {embed}; set it to false or drop {head}"
        )

    def read(part: names.Part) -> np.ndarray:
        name = head if has_only_head and part.hf == embed else part.hf
        return names.finite(files.read(name), name, folder.name)

    return ((weight.name, names.assemble(weight, read, dtype)) for weight in tree)


def _family(config: Fields) -> Literal["llama", "qwen2", "qwen3"]:
    architectures = config.values.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else None
    if not isinstance(name, str) or name not in _FAMILIES:
        raise UnsupportedModel(
            f"{config.source}: architectures is {brief(architectures)}; we serve {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[name]


def _is_mistral(config: Fields) -> bool:
    return config.values["architectures"] == ["MistralForCausalLM"]


def _refuse_others(config: Fields, served: dict[str, tuple[object, ...]]) -> None:
    for key, values in served.items():
        value = config.values.get(key)
        if value is not None and value not in values:
            wanted = f"want {values[0]!r}" if values else "we serve models without it"
            raise UnsupportedModel(f"{config.source}: {key} is {brief(value)}, which is not served; {wanted}")


def _rope(config: Fields, max_len: int) -> RopeSpec:
    """Rotary settings in the words of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters)."""
    old = config.inner("rope_scaling")
    rope = old if old.values else config.inner("rope_parameters")
    _refuse_others(rope, _SERVED_IN_ROPE)
    name = rope.text("rope_type", rope.text("type", "default"))
    if name not in _ROPE_KINDS:
        raise UnsupportedModel(f"{rope.source}: rope_type is {brief(name)}; we serve {', '.join(_ROPE_KINDS)}")
    kind, theta = _ROPE_KINDS[name], rope.number("rope_theta", config.number("rope_theta", 10_000.0))
    if kind == "none":
        return RopeSpec(theta=theta)
    if kind == "linear":
        return RopeSpec(theta=theta, kind=kind, factor=rope.number("factor"))
    key = "original_max_position_embeddings"
    original = config.whole(key, rope.whole(key, max_len))
    if kind == "llama3":
        return RopeSpec(
            theta=theta,
            kind=kind,
            factor=rope.number("factor"),
            original_max_len=original,
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
        )
    return RopeSpec(
        theta=theta,
        kind=kind,
        factor=rope.number("factor", max_len / original),
        original_max_len=original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=None if rope.values.get("attention_factor") is None else rope.number("attention_factor"),
    )


def _windows(config: Fields, family: str, num_layers: int) -> tuple[int | None, ...]:
    """Sliding window of each layer. An absent key means the architecture's own default, a null no window."""
    is_windowed = _is_mistral(config) if family == "llama" else config.flag("use_sliding_window", default=False)
    is_null = config.values.get("sliding_window", 4096) is None
    window = config.whole("sliding_window", 4096) if is_windowed and not is_null else None
    if family == "llama":
        return (window,) * num_layers
    kinds = config.values.get("layer_types")
    if kinds is None:
        first = config.whole("max_window_layers", 28, low=0)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if not isinstance(kinds, list) or not all(kind in ("full_attention", "sliding_attention") for kind in kinds):
        raise UnsupportedModel(f"{config.source}: layer_types is {brief(kinds)}; we serve full_ and sliding_attention")
    if window is None and "sliding_attention" in kinds:
        raise MalformedCheckpoint(f"{config.source}: layer_types has sliding_attention, but sliding_window is off")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _stop_token_ids(folder: Path, config: Fields) -> tuple[int, ...]:
    """End-of-sequence ids: those of generation_config.json where it names any, else those of config.json."""
    generation = folder / "generation_config.json"
    ids = read_fields(generation).whole_numbers("eos_token_id") if generation.exists() else ()
    return tuple(dict.fromkeys(ids or config.whole_numbers("eos_token_id")))


def _open(folder: Path) -> TensorFiles:
    """The folder's tensors: one file, or the shards that its index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return TensorFiles.open([single], max_tensors=MAX_TENSORS)
    if index.exists():
        shards = set(read_fields(index).inner("weight_map").values.values())
        return TensorFiles.open([_shard(folder, name) for name in sorted(shards, key=str)], max_tensors=MAX_TENSORS)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise UnsupportedModel(
            f"{pickles[0]} is a pickle, which runs code when it is opened; save the model as model.safetensors"
        )
    raise MalformedCheckpoint(f"{folder.name}: neither {single.name} nor {index.name} is there")


def _shard(folder: Path, name: object) -> Path:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise MalformedCheckpoint(f"model.safetensors.index.json: {brief(name)} is no name of a file beside it")
    return folder / name
