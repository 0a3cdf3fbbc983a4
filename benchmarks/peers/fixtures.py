"""The work that every engine gets: adapters and prompts, the same bits each time.

Owns: seeded inputs. Does not: run them.
`python -m benchmarks.peers.fixtures --model DIR --out DIR` writes `r8/ … r128/` (PEFT folders) and `prompts.json`
(token ids).
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

RANKS = (8, 16, 32, 64, 128)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SENTENCES = (
    "The lighthouse keeper counted ships until the fog came in, and then he began to count",
    "A good recipe for lentil soup starts with onions, patience, and a pot that is large enough to",
    "When the night train stopped between two stations, the passengers looked up from their books and",
    "Explain to a ten year old why the moon seems to follow the car when we drive along",
    "Three rules for writing code that other people can change: first, name things well; second,",
    "The map showed a river where there was only sand, so the two geologists decided that they would",
    "List the steps for repotting a plant whose roots have grown out through the bottom of the",
    "She tuned the old piano one string at a time, and each of them told her something about",
    "In the year the bridge was finished, the ferrymen of the town met to decide what they would",
    "My neighbour keeps bees on the roof, and in return for our silence we get a jar of honey every",
    "Summarise the argument in one sentence: machines are fast at copying and slow at knowing what to",
    "The recipe says to fold the egg whites gently, because the air that is inside them will make the",
    "Dear committee, I write to ask that the library stay open in winter for all of those who",
    "It was the third alarm of the week, and the engineer on call no longer hurried when she heard",
    "To measure the height of a tree without climbing it, wait for a sunny day, take a stick, and",
    "The translator stopped at a word that has no twin in English and wrote in the margin of the page",
)


def write_adapter(folder: Path, shapes: dict[str, tuple[int, int]], rank: int, seed: int) -> None:
    """Write a PEFT folder of random weights: every linear of the seven kinds, deltas of about 2 % of a hidden state.

    `shapes` maps a module's name to (out, in). alpha is 2 * rank, the weights are float32.
    """
    chance = np.random.default_rng([seed, rank])
    tensors: dict[str, np.ndarray] = {}
    for name, (wide_out, wide_in) in sorted(shapes.items()):
        a = chance.standard_normal((rank, wide_in), dtype=np.float32) / np.float32(wide_in**0.5)
        b = chance.standard_normal((wide_out, rank), dtype=np.float32) * np.float32(0.01 / rank**0.5)
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(TARGETS),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def linear_shapes(model: Path) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer that an adapter may change, by its name in a Hugging Face folder."""
    shapes = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is not iterable
                module = name.removesuffix(".weight")
                if module.endswith(TARGETS):
                    wide_out, wide_in = tensors.get_slice(name).get_shape()
                    shapes[module] = (wide_out, wide_in)
    return shapes


def write_adapters(model: Path, out: Path, ranks: Iterable[int] = RANKS, seed: int = 0) -> dict[str, Path]:
    """Write one adapter `r<rank>` for each rank into `out`; returns their folders by name."""
    shapes = linear_shapes(model)
    if not shapes:
        raise ValueError(f"{model} has no safetensors with llama-style linear layers; give a Hugging Face model folder")
    folders = {f"r{rank}": out / f"r{rank}" for rank in ranks}
    for rank, folder in zip(ranks, folders.values(), strict=True):
        write_adapter(folder, shapes, rank, seed)
    return folders


def prompts(count: int, seed: int = 0) -> list[str]:
    """`count` prompts of 16 to 24 tokens each, none twice before all were used."""
    order = np.random.default_rng(seed).permutation(len(SENTENCES))
    return [SENTENCES[order[i % len(order)]] for i in range(count)]


def token_ids(model: Path, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise with the model's own `tokenizer.json`, so that all engines see the same ids."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in texts]


def main() -> None:
    """Write adapters and prompts for the other scripts of this folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder of the base model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16, help="prompts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_adapters(args.model, args.out, seed=args.seed)
    ids = token_ids(args.model, prompts(args.count, args.seed))
    (args.out / "prompts.json").write_text(json.dumps(ids))


if __name__ == "__main__":
    main()
