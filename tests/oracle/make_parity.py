"""Write `tests/fixtures/parity.{json,npz}`: what `transformers` and `peft` answer for the models of `tests/tiny.py`.

Owns: which cases are fair and telling. Does not: know lorajax.

    python -m tests.oracle.make_parity      # from the repository root, in the environment of examples/train_adapters.py

`parity.json`
    versions       packages that made the file
    model_seeds    {family: seed for tiny.write_model}
    adapter_seeds  {adapter: seed for tiny.write_adapter, with the config tiny.ADAPTERS[adapter]}
    cases          list of {family, adapters: [[name, weight], ...], prompt: ids, tokens: 24 greedy ids, min_gap}
`parity.npz`
    logits         float32 [case, vocab]: row i holds the logits that chose cases[i].tokens[0]
Greedy in float32 on the CPU; stop tokens do not stop. `min_gap` is the least difference between the two best logits
over the 24 steps: prompts are drawn until it exceeds `FAIR_GAP`, thousands of times the rounding error, so that "the
same tokens" is a fair demand, and until the answer does not just repeat a token. A family is refused if its longest
prompt cannot tell it from its plain variant (`PLAIN`), so a reader that ignores rope scaling or windows must fail.
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from tests import tiny
from tests.oracle import peft_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
NUM_TOKENS = 24
FAIR_GAP = 0.02
PROMPT_LENGTHS = (1, 5, 23, 70)
ADAPTER_SETS: list[list[tuple[str, float]]] = [
    [],
    *([(name, 1.0)] for name in tiny.ADAPTERS),
    [("rank4", 0.5)],
    [("rslora8", 0.7), ("patterns16", -0.4)],
    [("rank1", 1.0), ("layers12", 1.25), ("regex32", 0.3)],
]
PLAIN = {
    "llama3-rope": {"rope_scaling": None},
    "yarn-rope": {"rope_scaling": None},
    "linear-rope": {"rope_scaling": None},
    "mistral": {"sliding_window": None},
    "qwen2": {"max_window_layers": 0},
    "qwen3": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}
"""Config keys that a careless reader would miss, by family, with what it would read instead."""


def main() -> None:
    """Make every case and write both files."""
    logging.disable_progress_bar()
    model_seeds = {family: seed for seed, family in enumerate(tiny.FAMILIES, start=1)}
    adapter_seeds = {name: seed for seed, name in enumerate(tiny.ADAPTERS, start=101)}
    cases, logits = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for family, seed in model_seeds.items():
            folder = Path(scratch) / family
            tiny.write_model(folder, family, seed)
            for name, adapter_seed in adapter_seeds.items():
                tiny.write_adapter(folder / name, family, adapter_seed, tiny.ADAPTERS[name])
            model = peft_model.load(folder, {name: folder / name for name in tiny.ADAPTERS})
            made = [_case(model, family, adapters, n) for adapters in ADAPTER_SETS for n in PROMPT_LENGTHS]
            _refuse_blind(folder, family, made[len(PROMPT_LENGTHS) - 1][0])
            cases += [case for case, _ in made]
            logits += [row for _, row in made]
    parity = {
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "numpy")},
        "model_seeds": model_seeds,
        "adapter_seeds": adapter_seeds,
        "cases": cases,
    }
    lines = json.dumps(parity, separators=(",", ":")).replace('{"family"', '\n{"family"')
    (FIXTURES / "parity.json").write_text(lines + "\n", encoding="utf-8")
    np.savez_compressed(FIXTURES / "parity.npz", logits=np.stack(logits))


def _case(model, family, adapters, prompt_len):
    """One fair case, and the logits of its first token."""
    draw = np.random.RandomState(prompt_len)
    while True:
        prompt = draw.randint(3, tiny.VOCAB, prompt_len).tolist()
        peft_model.use(model, adapters)
        tokens, logits, gaps = peft_model.greedy(model, prompt, NUM_TOKENS)
        if min(gaps) < FAIR_GAP or len(set(tokens)) < NUM_TOKENS // 4:
            continue
        case = {"family": family, "adapters": adapters, "prompt": prompt, "tokens": tokens}
        return case | {"min_gap": round(min(gaps), 4)}, logits


def _refuse_blind(folder, family, base_case):
    """Fail if a reader that takes the family for its plain variant would still get the tokens right."""
    if family not in PLAIN:
        return
    config = AutoConfig.from_pretrained(_plain_folder(folder, family))
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    )
    tokens, _, _ = peft_model.greedy(model.eval(), base_case["prompt"], NUM_TOKENS)
    if tokens == base_case["tokens"]:
        raise ValueError(f"{family}: the answer is the same with {PLAIN[family]}; choose another seed")


def _plain_folder(folder, family):
    plain = folder / "plain"
    plain.mkdir()
    (plain / "config.json").write_text(json.dumps(tiny.FAMILIES[family] | PLAIN[family]), encoding="utf-8")
    return plain


if __name__ == "__main__":
    main()
