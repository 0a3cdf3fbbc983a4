"""Seeded tiny models and adapters as Hugging Face and PEFT folders. Owns: their shapes and values. Does not: run them.

Needs numpy and safetensors alone, so that the oracle (`tests/oracle`, torch) and our tests build the very same bits.
Every width divides by four, for four-way tensor parallelism. Values are drawn so that attention is soft, logits spread
over several units, and an adapter changes most tokens.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, WIDE, NUM_LAYERS, VOCAB = 64, 96, 3, 128
NUM_HEADS, NUM_KV_HEADS = 8, 4
GAIN = 1.2
"""Standard deviation of a linear layer's output for a normalised input."""
DELTA_GAIN = 0.6
"""The same for what an adapter adds to one layer, whatever its rank and scaling."""

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
_LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN_ROPE = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 4.0, "beta_slow": 1.0}
_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": True}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
_QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32, "rms_norm_eps": 1e-6}
# Both spellings of rotary embedding occur on the hub: `rope_theta` with `rope_scaling`, and (newer) `rope_parameters`.
FAMILIES: dict[str, dict[str, object]] = {
    "llama": _LLAMA,
    "llama3-rope": _LLAMA
    | {"tie_word_embeddings": True, "rope_scaling": _LLAMA3_ROPE | {"original_max_position_embeddings": 32}},
    "yarn-rope": _LLAMA | {"rope_scaling": _YARN_ROPE | {"original_max_position_embeddings": 32}},
    "linear-rope": _LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "mistral": _LLAMA | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 16},
    "qwen2": _LLAMA | _QWEN2 | _WINDOWS,
    "qwen3": {k: v for k, v in _LLAMA.items() if k != "rope_theta"}
    | _QWEN3
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
}
"""`config.json` of each family."""

_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_ALL = [*_ATTENTION, "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, object]] = {
    "rank1": {"r": 1, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"]},
    "rank4": {"r": 4, "lora_alpha": 8, "target_modules": _ATTENTION},
    "rslora8": {"r": 8, "lora_alpha": 16, "target_modules": _ALL, "use_rslora": True},
    "layers12": {"r": 12, "lora_alpha": 6, "target_modules": ["o_proj", "down_proj"], "layers_to_transform": [0, 2]},
    "patterns16": {
        "r": 16,
        "lora_alpha": 16,
        "target_modules": _ALL,
        "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 24},
        "alpha_pattern": {"v_proj": 48, "layers.1.mlp.down_proj": 12},
    },
    "regex32": {"r": 32, "lora_alpha": 64, "target_modules": r".*\.layers\.[01]\.mlp\.(gate|up|down)_proj"},
}
"""What each adapter of the parity fixture says in `adapter_config.json` besides PEFT's defaults."""

_PEFT_DEFAULTS = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "inference_mode": True,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_dora": False,
    "use_rslora": False,
}


def write_model(folder: Path, family: str, seed: int) -> None:
    """Write `config.json` and `model.safetensors` (float32) of one random model."""
    config = FAMILIES[family]
    # The legacy generator: numpy promises its stream for ever, and the fixture's tokens depend on it.
    draw = np.random.RandomState(seed).standard_normal
    tensors = {"model.embed_tokens.weight": 0.2 * draw((VOCAB, HIDDEN)), "model.norm.weight": _norm(draw, HIDDEN)}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = 0.5 * draw((VOCAB, HIDDEN))
    for layer in range(NUM_LAYERS):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = _norm(draw, HIDDEN)
        for name in ("q_norm", "k_norm") if config["model_type"] == "qwen3" else ():
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = _norm(draw, int(config["head_dim"]))
    for module, (wide_in, wide_out) in linear_layers(family).items():
        tensors[f"{module}.weight"] = GAIN / math.sqrt(wide_in) * draw((wide_out, wide_in))
        if config["model_type"] == "qwen2" and module.endswith(("q_proj", "k_proj", "v_proj")):
            tensors[f"{module}.bias"] = 0.5 * draw(wide_out)
    _write(folder, "config.json", config, "model.safetensors", tensors)


def write_adapter(folder: Path, family: str, seed: int, config: dict[str, object]) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` (float32) of one random adapter.

    `config` overrides PEFT's defaults; which layers it names, with which rank, follows PEFT's rules.
    """
    full = _PEFT_DEFAULTS | config
    draw = np.random.RandomState(seed).standard_normal
    tensors = {}
    for module, (wide_in, wide_out) in linear_layers(family).items():
        if not _is_target(module, full):
            continue
        rank = _pattern(full["rank_pattern"], module, full["r"])
        alpha = _pattern(full["alpha_pattern"], module, full["lora_alpha"])
        scaling = alpha / (math.sqrt(rank) if full["use_rslora"] else rank)
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = draw((rank, wide_in)) / math.sqrt(wide_in)
        tensors[f"{name}.lora_B.weight"] = DELTA_GAIN / (scaling * math.sqrt(rank)) * draw((wide_out, rank))
    _write(folder, "adapter_config.json", full, "adapter_model.safetensors", tensors)


def linear_layers(family: str) -> dict[str, tuple[int, int]]:
    """(in, out) of every linear layer that an adapter can change, by its Hugging Face module name."""
    head_dim = int(FAMILIES[family]["head_dim"])
    q, kv = NUM_HEADS * head_dim, NUM_KV_HEADS * head_dim
    widths = {"q": (HIDDEN, q), "k": (HIDDEN, kv), "v": (HIDDEN, kv), "o": (q, HIDDEN)}
    attention = {f"self_attn.{name}_proj": width for name, width in widths.items()}
    mlp = {"mlp.gate_proj": (HIDDEN, WIDE), "mlp.up_proj": (HIDDEN, WIDE), "mlp.down_proj": (WIDE, HIDDEN)}
    return {
        f"model.layers.{layer}.{name}": width
        for layer in range(NUM_LAYERS)
        for name, width in (attention | mlp).items()
    }


def _norm(draw, width):
    return 1 + 0.2 * draw(width)


def _is_target(module, config):
    """PEFT's rule: a string is a regex of the whole name, a list holds suffixes, kept for some layers only."""
    targets, layers = config["target_modules"], config["layers_to_transform"]
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return module.rsplit(".", 1)[-1] in targets and (layers is None or int(module.split(".")[2]) in layers)


def _pattern(patterns, module, default):
    """PEFT's rule: the first key that ends the module's name, as a regex."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _write(folder, config_name, config, tensors_name, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, folder / tensors_name, metadata={"format": "pt"})
