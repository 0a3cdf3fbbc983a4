"""Tiny base models as Hugging Face folders and GGUF files, and what our arrays must be, head by head.

Owns: an obvious second writing of the layout. Does not: use `checkpoints.names`, which it checks.
"""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

HIDDEN, WIDE, VOCAB, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 32, 64, 48, 2, 4, 2, 8
GROUP = NUM_HEADS // NUM_KV_HEADS
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LLAMA,
    "qwen2": LLAMA | {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": LLAMA | {"architectures": ["Qwen3ForCausalLM"]},
}
GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensors(family: str, *, tied: bool = False) -> dict[str, np.ndarray]:
    """Random tensors by their Hugging Face names."""
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    widths = {"q": NUM_HEADS * HEAD_DIM, "k": NUM_KV_HEADS * HEAD_DIM, "v": NUM_KV_HEADS * HEAD_DIM}
    for layer in range(NUM_LAYERS):
        prefix = f"model.layers.{layer}."
        for name, width in widths.items():
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (width, HIDDEN)
            if family == "qwen2":
                shapes[f"{prefix}self_attn.{name}_proj.bias"] = (width,)
            if family == "qwen3" and name != "v":
                shapes[f"{prefix}self_attn.{name}_norm.weight"] = (HEAD_DIM,)
        shapes |= {
            f"{prefix}self_attn.o_proj.weight": (HIDDEN, NUM_HEADS * HEAD_DIM),
            f"{prefix}mlp.gate_proj.weight": (WIDE, HIDDEN),
            f"{prefix}mlp.up_proj.weight": (WIDE, HIDDEN),
            f"{prefix}mlp.down_proj.weight": (HIDDEN, WIDE),
            f"{prefix}input_layernorm.weight": (HIDDEN,),
            f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
        }
    rng = np.random.default_rng(7)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def ours(hf: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tree these tensors must become."""
    tree = {"embed": hf["model.embed_tokens.weight"], "final_norm": hf["model.norm.weight"]}
    if "lm_head.weight" in hf:
        tree["head"] = hf["lm_head.weight"].T
    for layer in range(NUM_LAYERS):
        theirs, name = f"model.layers.{layer}.", f"layers.{layer}."
        tree[name + "attn_norm"] = hf[theirs + "input_layernorm.weight"]
        tree[name + "mlp_norm"] = hf[theirs + "post_attention_layernorm.weight"]
        tree[name + "attn.out"] = hf[theirs + "self_attn.o_proj.weight"].T
        tree[name + "mlp.down"] = hf[theirs + "mlp.down_proj.weight"].T
        gate, up = (hf[f"{theirs}mlp.{which}_proj.weight"].T for which in ("gate", "up"))
        tree[name + "mlp.gate_up"] = np.stack([gate, up], axis=1)
        tree[name + "attn.qkv"] = _heads_side_by_side(hf, theirs, "weight")
        if theirs + "self_attn.q_proj.bias" in hf:
            tree[name + "attn.qkv_bias"] = _heads_side_by_side(hf, theirs, "bias")
        if theirs + "self_attn.q_norm.weight" in hf:
            tree[name + "attn.q_norm"] = hf[theirs + "self_attn.q_norm.weight"]
            tree[name + "attn.k_norm"] = hf[theirs + "self_attn.k_norm.weight"]
    return tree


def _heads_side_by_side(hf: dict[str, np.ndarray], prefix: str, kind: str) -> np.ndarray:
    q, k, v = (hf[f"{prefix}self_attn.{which}_proj.{kind}"] for which in "qkv")
    rows = lambda values, head: values[head * HEAD_DIM : (head + 1) * HEAD_DIM]
    per_kv_head = []
    for kv_head in range(NUM_KV_HEADS):
        heads = [rows(q, kv_head * GROUP + member) for member in range(GROUP)]
        per_kv_head.append(np.stack([*heads, rows(k, kv_head), rows(v, kv_head)]))
    stacked = np.stack(per_kv_head)
    return np.moveaxis(stacked, -1, 0) if kind == "weight" else stacked


def write_config(folder: Path, config: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_folder(folder: Path, config: dict[str, object], hf: dict[str, np.ndarray]) -> Path:
    save_file(hf, write_config(folder, config) / "model.safetensors")
    return folder


def write_shards(folder: Path, config: dict[str, object], hf: dict[str, np.ndarray]) -> Path:
    write_config(folder, config)
    names = sorted(hf)
    weight_map = {}
    for number, shard in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: hf[name] for name in shard}, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in GGUF_TOP:
        return f"{GGUF_TOP[stem]}.{kind}"
    layer, rest = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{GGUF_LAYER[rest]}.{kind}"


def interleaved(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp's conversion does to the rows of q and k of the llama architecture."""
    split = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    family: str,
    hf: dict[str, np.ndarray],
    *,
    settings: dict[str, float | str] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    quantisation: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """A GGUF file as llama.cpp would convert it; `settings` are further keys of the architecture."""
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(NUM_LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "é", ""])
    writer.add_token_scores([0.5, 0.25, 0.0])
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(5)
    for key, value in ({"rope.freq_base": 10000.0} | (settings or {})).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        (writer.add_uint32 if isinstance(value, int) else add)(f"{family}.{key}", value)
    for name, values in hf.items():
        heads = NUM_HEADS if "q_proj" in name else NUM_KV_HEADS
        is_turned = family == "llama" and ("q_proj" in name or "k_proj" in name)
        array = interleaved(values, heads) if is_turned else values
        if quantisation is not None and array.ndim == 2:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, quantisation), raw_dtype=quantisation)
        else:
            writer.add_tensor(gguf_name(name), array)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Same names, and the same bits under each."""
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(np.asarray(got[name]), array, err_msg=name)
