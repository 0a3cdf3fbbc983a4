"""A tiny base, and PEFT folders for it. Owns: what a sound folder holds. Does not: read it."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from checkpoints import peft
from lorajax.adapter_pages import DTYPES, HostAdapter
from lorajax.spec import TARGETS, ModelSpec, RopeSpec

FLOAT32 = DTYPES["float32"]
MODEL = ModelSpec(
    family="llama",
    vocab_size=16,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    rope=RopeSpec(theta=10000.0),
    max_model_len=64,
    tied_embeddings=False,
    windows=(None, None),
)
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
PARENT = {target: "self_attn" if target[0] in "qkvo" else "mlp" for target in TARGETS}
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"
VALUE = "base_model.model.model.layers.1.self_attn.v_proj"


def tensors_of(modules, rank=4, dtype=np.float32):
    draw = np.random.default_rng(0).standard_normal
    tensors = {}
    for layer, target in modules:
        width_in, width_out = MODEL.widths(target)
        name = f"base_model.model.model.layers.{layer}.{PARENT[target]}.{target}"
        tensors[f"{name}.lora_A.weight"] = draw((rank, width_in)).astype(dtype)
        tensors[f"{name}.lora_B.weight"] = draw((width_out, rank)).astype(dtype)
    return tensors


QV = [(layer, target) for layer in (0, 1) for target in ("q_proj", "v_proj")]


def write(folder, *, config=(), tensors=None):
    """A sound folder of rank 4 on q and v, but for what the test changes in it."""
    (folder / peft.CONFIG).write_text(json.dumps(CONFIG | dict(config)))
    save_file(tensors_of(QV) if tensors is None else tensors, folder / peft.WEIGHTS)
    return folder


def read(folder: Path, **more) -> HostAdapter:
    """The folder's adapter in float32."""
    return peft.read(folder, MODEL, FLOAT32, **more)
