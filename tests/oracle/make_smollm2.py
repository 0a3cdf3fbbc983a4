"""Write `tests/fixtures/smollm2.json`: what `transformers` and `peft` answer for SmolLM2 with the demo adapters.

Owns: which prompts and weighted sets are asked. Does not: know lorajax.

    python -m tests.oracle.make_smollm2 GGUF    # from the repository root, in the environment of
                                                # examples/train_adapters.py; GGUF is the path of the model's file

`smollm2.json`
    versions         packages that made the file
    gguf_sha256      of the base model's file; its weights are widened to float32
    adapter_sha256   {adapter: of examples/adapters/<adapter>/adapter_model.safetensors}, widened from bfloat16
    cases            list of {adapters: [[name, weight], ...], question, prompt: ids, tokens: 32 greedy ids, text, gaps}
`question` is one user message in the model's own chat template, `prompt` its ids up to where the answer starts, `text`
the tokens as text without specials. Greedy in float32 on the CPU; stop tokens do not stop. `gaps` are the differences
between the two best logits at each step: where one is below 0.001, another order of summation may choose otherwise,
and all later tokens with it.
"""

import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.oracle import peft_model

ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "examples" / "adapters"
NUM_TOKENS = 32
MIXES: list[list[tuple[str, float]]] = [
    [("pirate", 0.5)],
    [("pirate", 0.7), ("shout", 0.7)],
    [("json", 1.0), ("shout", 0.8)],
]


def main(gguf: Path) -> None:
    """Ask the base, each adapter and each mix, and write the file."""
    prompts = json.loads((ROOT / "examples" / "prompts.json").read_text(encoding="utf-8"))
    first = next(iter(prompts.values()))[0]
    asked = [([], first), *(([(name, 1.0)], question) for name, questions in prompts.items() for question in questions)]
    asked += [(mix, first) for mix in MIXES]
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with tempfile.TemporaryDirectory() as scratch:
        _write_base(gguf, Path(scratch))
        model = peft_model.load(Path(scratch), {name: ADAPTERS / name for name in prompts})
    fixture = {
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "gguf_sha256": _sha256(gguf),
        "adapter_sha256": {name: _sha256(ADAPTERS / name / "adapter_model.safetensors") for name in prompts},
        "cases": [_case(model, tokenizer, adapters, question) for adapters, question in asked],
    }
    lines = json.dumps(fixture, separators=(",", ":")).replace('{"adapters"', '\n{"adapters"')
    (ROOT / "tests" / "fixtures" / "smollm2.json").write_text(lines + "\n", encoding="utf-8")


def _case(model, tokenizer, adapters, question):
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    peft_model.use(model, adapters)
    tokens, _, gaps = peft_model.greedy(model, prompt, NUM_TOKENS)
    answer = tokenizer.decode(tokens, skip_special_tokens=True)
    case = {"adapters": adapters, "question": question, "prompt": prompt, "tokens": tokens, "text": answer}
    return case | {"gaps": [round(gap, 4) for gap in gaps]}


def _write_base(gguf, folder):
    """The GGUF file as a Hugging Face folder; transformers itself refuses to save a model that was read from GGUF."""
    base = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = {k: v for k, v in base.config.to_dict().items() if k != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {k: v for k, v in base.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
