"""Writes `fixtures/peft`: adapters of a tiny Llama saved by PEFT itself, and the deltas that PEFT computes for them.

Run by hand where torch, transformers and peft are installed: `python tests/checkpoints/make_peft_fixture.py`.
Made with peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU), seed 0.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

FIXTURES = Path(__file__).parent / "fixtures" / "peft"
BASE = LlamaConfig(
    vocab_size=16,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
CONFIGS = {
    "suffixes": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "self_attn.v_proj", "model.layers.1.mlp.up_proj"],
    },
    "all_linear": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"},
    "excluded": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "exclude_modules": r".*layers\.0\.mlp.*"},
    "regex": {"r": 4, "lora_alpha": 8, "target_modules": r".*\.layers\.[^0]\.(self_attn\.[kv]|mlp\.gate)_proj"},
    "rslora": {"r": 9, "lora_alpha": 16, "target_modules": ["o_proj", "down_proj"], "use_rslora": True},
    "layers": {
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["k_proj", "model.layers.0.self_attn.q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "down_proj"],
        "rank_pattern": {"^model.layers.0.self_attn.q_proj": 10, r"layers\.\d\.mlp.+": 1, "proj": 7},
        "alpha_pattern": {"q_proj|k_proj": 3, "layers.1.mlp.down_proj": 20, "down": 99},
    },
}


def main() -> None:
    """Write every folder, and `deltas.npz` with one array per adapter and module."""
    shutil.rmtree(FIXTURES, ignore_errors=True)
    deltas = {}
    for name, settings in CONFIGS.items():
        torch.manual_seed(0)
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
        get_peft_model(LlamaForCausalLM(BASE), config).save_pretrained(FIXTURES / name)
        (FIXTURES / name / "README.md").unlink()
        model = PeftModel.from_pretrained(LlamaForCausalLM(BASE), FIXTURES / name)
        for module, layer in model.base_model.model.named_modules():
            if hasattr(layer, "get_delta_weight"):
                deltas[f"{name}/{module}"] = layer.get_delta_weight("default").detach().numpy()
    np.savez_compressed(FIXTURES / "deltas.npz", **deltas)


if __name__ == "__main__":
    main()
