"""Random adapters for a workload's names and ranks, as PEFT folders. Owns: their shapes. Does not: load them."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.fixtures import write_adapter
from checkpoints import base
from lorajax.spec import TARGETS, ModelSpec

LIST = "adapters"
"""The file with one line NAME=DIR for each of them: what `--lora-modules` of vLLM and `--lora-paths` of SGLang take."""


def make_adapters(model: Path, folder: Path, ranks: Mapping[str, int]) -> Path:
    """Write one folder for each adapter, and the list of them, whose path is returned.

    What is there already is kept, so that a larger workload adds to a smaller one.
    """
    shapes = _shapes(base.read_spec(model))
    for number, (name, rank) in enumerate(sorted(ranks.items())):
        if not (folder / name / "adapter_config.json").exists():
            write_adapter(folder / name, shapes, rank, number)
    path = folder / LIST
    path.write_text("".join(f"{name}={(folder / name).absolute()}\n" for name in sorted(ranks)), encoding="utf-8")
    return path


def _shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer that an adapter may change, by its name in a Hugging Face checkpoint."""
    shapes = {}
    for layer in range(spec.num_layers):
        for target in TARGETS:
            block = "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            wide_in, wide_out = spec.widths(target)
            shapes[f"model.layers.{layer}.{block}.{target}"] = (wide_out, wide_in)
    return shapes
