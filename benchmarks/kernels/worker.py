"""Our process on the device: one part of the measurements. Owns: its flags. Does not: judge.

`python -m benchmarks.kernels.worker PART …`; the lines that it prints are in `turns`.
"""

import argparse
import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.kernels.bank import Bank
from benchmarks.kernels.timing import ceilings
from benchmarks.kernels.turns import Found, Task, serve

_COPY_BYTES, _SIDE = 2 * 2**30, 8192


def _facts() -> Found:
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "numpy")
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


def _tasks(part: str, bank: Bank, num_layers: int) -> Iterator[Task]:
    """Parts are imported on use: one that cannot be imported must not stop the others."""
    if part in ("lora", "tune", "ceilings"):
        yield Task("device", 60.0, _facts)
        yield Task("ceilings", 60.0, lambda: dict(ceilings(_COPY_BYTES, _SIDE)))
    if part in ("lora", "tune"):
        yield Task("bank", 120.0, lambda: _filled(bank))
    if part == "lora":
        yield from import_module("benchmarks.kernels.lora_tasks").tasks(bank)
    elif part == "tune":
        yield from import_module("benchmarks.kernels.tune").tasks(bank)
    elif part == "attention":
        yield from import_module("benchmarks.kernels.attention_task").tasks()
    elif part == "step":
        yield from import_module("benchmarks.kernels.step_tasks").tasks(num_layers)


def _filled(bank: Bank) -> Found:
    bank.fill(jnp.dtype(bank.dtype))
    return {}


def main() -> None:
    """Serve the tasks of one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("ceilings", "lora", "attention", "step", "tune"))
    parser.add_argument("--bank", type=Path, required=True, help="bank.json")
    parser.add_argument("--layers", type=int, default=32, help="of the whole step")
    parser.add_argument("--skip", default="", help="names of tasks, with | between")
    args = parser.parse_args()
    # A process that takes the place of a killed one compiles nothing again.
    jax.config.update("jax_compilation_cache_dir", str(args.bank.parent / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    serve(_tasks(args.part, Bank.load(args.bank), args.layers), args.skip.split("|"))


if __name__ == "__main__":
    main()
