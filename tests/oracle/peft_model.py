"""`transformers` and `peft` as the reference. Owns: the slow, obvious greedy loop. Does not: choose or write cases.

Runs in the torch environment of `examples/train_adapters.py`, never in the tests.
"""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def load(model_folder: Path, adapter_folders: dict[str, Path]):
    """The base model in float32 with every adapter attached; fails if an adapter's tensors did not all arrive."""
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager")
    (first, folder), *others = adapter_folders.items()
    model = PeftModel.from_pretrained(base, folder, adapter_name=first)
    for name, folder in others:
        model.load_adapter(folder, name)
    for name, folder in adapter_folders.items():
        stored = load_file(folder / "adapter_model.safetensors")
        loaded = get_peft_model_state_dict(model, adapter_name=name)
        if stored.keys() != loaded.keys() or not all(torch.equal(stored[k].float(), loaded[k]) for k in stored):
            raise ValueError(f"peft did not load adapter {name} whole; it holds {len(loaded)} of {len(stored)} tensors")
    return model.eval()


def use(model, adapters: list[tuple[str, float]]) -> None:
    """Make the model answer with this weighted set of adapters; an empty set is the base model."""
    model.base_model.set_adapter([name for name, _ in adapters])
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name, weight in adapters:
                layer.set_scale(name, weight)


@torch.no_grad()
def greedy(model, prompt: list[int], num_tokens: int):
    """(`num_tokens` greedy tokens, logits[vocab] of the first, gap between the two best logits at every step).

    Runs the whole sequence again for each token: no cache, no batch, no stop token.
    """
    ids, gaps, first = list(prompt), [], None
    for _ in range(num_tokens):
        logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
        first = logits if first is None else first
        best, second = logits.topk(2).values.tolist()
        ids.append(int(logits.argmax()))
        gaps.append(best - second)
    return ids[len(prompt) :], first.numpy(), gaps
