"""A host kind as a JSON file. Owns: the file. Does not: measure (measure.py), or fit (fit.py)."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.simulator.device import Kernels, Roofline, Shapes, StepModel
from benchmarks.simulator.hardware import Hardware
from lorajax.config import EngineConfig
from lorajax.limits import EngineLimits


def write(path: Path, hardware: Hardware, facts: Mapping[str, object]) -> None:
    """Put a host kind into a file, in place of what it held; `facts` say how it was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "hardware": asdict(hardware)}, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Hardware:
    """The host kind of a file that `write` wrote.

    Raises: ValueError naming the file where it holds something else; OSError where it cannot be read.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))["hardware"]
        step, limits = fields.pop("step"), fields.pop("limits")
        limits["stop_token_ids"], fields["jitter"] = (
            tuple(limits["stop_token_ids"]),
            tuple(map(tuple, fields.get("jitter", ((1.0,),)))),
        )
        return Hardware(
            **fields,
            step=StepModel(**step | {"base": _base(step["base"]), "kernels": Kernels(step["kernels"])}),
            limits=EngineLimits(**limits | {"config": EngineConfig(**limits["config"])}),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"{path} holds no measured hardware ({error}); write it with `python -m benchmarks steps`"
        raise ValueError(words) from error


def _base(fields: Mapping[str, list[list[float]]]) -> Roofline | Shapes:
    if "decode" not in fields:
        return Roofline(**fields)  # type: ignore[arg-type]  # floats: JSON knows no types
    shapes = {kind: tuple((int(tokens), seconds) for tokens, seconds in fields[kind]) for kind in ("decode", "mixed")}
    return Shapes(**shapes)
