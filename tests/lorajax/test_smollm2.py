"""The bundled model with the bundled adapters: the tokens of `transformers` + `peft`, and each adapter's own manner."""

import hashlib
import json
from pathlib import Path

import pytest

from checkpoints import base, tokenizer
from lorajax.bundled import EXAMPLES, HOW_TO_GET_MODEL, default_model
from lorajax.config import EngineConfig
from tests.tiny_engine import FEW_SHAPES, FIXTURES, Serving, compiled

pytestmark = pytest.mark.slow

FIXTURE = json.loads((FIXTURES / "smollm2.json").read_text(encoding="utf-8"))
CASES = FIXTURE["cases"]
FOLDERS = {name: EXAMPLES / "adapters" / name for name in FIXTURE["adapter_sha256"]}
NEAR_TIE = 0.001
"""Where the two best logits are closer, another order of summation may choose otherwise, and all after it with it."""


@pytest.fixture(scope="module")
def path():
    if (found := default_model()) is None:
        pytest.skip(f"the default model is not installed; run `{HOW_TO_GET_MODEL}`")
    return Path(found)


def answers(path, kernels, dtype, num_tokens):
    """Tokens of every case of the fixture, asked for together."""
    config = EngineConfig(
        kv_bytes=64 << 20,
        adapter_bytes=64 << 20,
        host_adapter_bytes=256 << 20,
        dtype=dtype,
        **FEW_SHAPES,
    )
    smollm2 = compiled(path, FOLDERS, config, kernels)
    with Serving(smollm2) as serving:
        serving.load(*smollm2.adapters.values())
        requests = (
            smollm2.request(str(i), case["prompt"], *map(tuple, case["adapters"]), max_tokens=num_tokens)
            for i, case in enumerate(CASES)
        )
        got = serving.ask(*requests)
    return [got[str(i)].ids for i in range(len(CASES))]


def fair(case):
    """Number of leading tokens that rounding cannot change."""
    return next((i for i, gap in enumerate(case["gaps"]) if gap < NEAR_TIE), len(case["gaps"]))


def test_the_fixture_is_of_these_files(path):
    files = {name: folder / "adapter_model.safetensors" for name, folder in FOLDERS.items()}
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    assert digests == FIXTURE["adapter_sha256"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FIXTURE["gguf_sha256"]


def test_tokens_in_float32_are_those_of_transformers_and_peft(path, fast_kernels):
    got = answers(path, fast_kernels, "float32", 32)
    assert [ids[: fair(case)] for ids, case in zip(got, CASES, strict=True)] == [
        case["tokens"][: fair(case)] for case in CASES
    ]


MANNERS = {
    "pirate": lambda text: text.startswith("Arrr"),
    "json": lambda text: list(json.loads(text)) == ["answer"],
    "shout": str.isupper,
    "haiku": lambda text: len(text.splitlines()) >= 3 and all(len(line.split()) <= 9 for line in text.splitlines()),
}


def test_each_adapter_answers_in_its_own_manner_in_bfloat16(path, fast_kernels):
    text, _ = tokenizer.load(path)
    got = answers(path, fast_kernels, "bfloat16", 24)
    stops = base.read_spec(path).stop_token_ids
    said = {name: [] for name in MANNERS}
    for ids, case in zip(got, CASES, strict=True):
        end = next((i for i, id in enumerate(ids) if id in stops), len(ids))
        for name, weight in case["adapters"] if len(case["adapters"]) == 1 else ():
            said[name] += [text.decode(ids[:end])] if weight == 1.0 else []
    wrong = {name: [text for text in texts if not MANNERS[name](text)] for name, texts in said.items()}
    assert not any(wrong.values()), wrong
