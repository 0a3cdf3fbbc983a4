"""Imports point to lower floors, and the host half runs without JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lorajax", "pallas_kernels", "cluster", "checkpoints")

FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "checkpoints.patterns",
        "cluster.serving_pb2",
        "lorajax.errors",
        "lorajax.spec",
        "pallas_kernels.work",
    ),
    (
        "checkpoints.fields",
        "checkpoints.roots",
        "cluster.admission",
        "cluster.serving_pb2_grpc",
        "lorajax.bundled",
        "lorajax.config",
        "lorajax.demo_server",
        "lorajax.layers",
        "lorajax.mesh",
        "lorajax.pages",
        "lorajax.plan",
        "lorajax.sampler",
        "lorajax.sequence",
        "lorajax.text",
        "pallas_kernels.native",
        "pallas_kernels.reference",
        "pallas_kernels.xla_attention",
        "pallas_kernels.xla_lora",
    ),
    ("cluster.config",),
    (
        "checkpoints.gguf_header",
        "cluster.metrics",
        "lorajax.limits",
        "checkpoints.names",
        "checkpoints.peft_config",
        "checkpoints.safetensors_files",
        "cluster.calls",
        "cluster.catalogue",
        "cluster.records",
        "lorajax.adapter_pages",
        "lorajax.batch",
        "lorajax.chat",
        "lorajax.draw",
        "lorajax.residency",
        "pallas_kernels.cases",
        "pallas_kernels.ops",
    ),
    (
        "checkpoints.gguf_files",
        "checkpoints.hf",
        "checkpoints.peft",
        "checkpoints.store",
        "checkpoints.tokenizer",
        "cluster.client",
        "cluster.openai_query",
        "cluster.seams",
        "cluster.wire",
        "lorajax.demo_view",
        "lorajax.packing",
        "lorajax.lora",
        "lorajax.scheduler",
    ),
    (
        "checkpoints.base",
        "cluster.guard",
        "cluster.openai_reply",
        "cluster.transcript",
        "lorajax.cli_types",
        "lorajax.models.decoder",
    ),
    (
        "cluster.http_server",
        "cluster.worker_adapters",
        "cluster.worker_inference",
        "lorajax.cli_admin",
        "lorajax.cli_ask",
        "lorajax.cli_serve",
        "lorajax.demo",
        "lorajax.models.attention",
    ),
    (
        "cluster.http_front",
        "cluster.worker",
        "lorajax.cli_files",
        "lorajax.models.llama",
        "lorajax.models.qwen2",
        "lorajax.models.qwen3",
    ),
    ("lorajax.cli", "lorajax.convert", "lorajax.doctor", "lorajax.models.registry"),
    ("lorajax.__main__", "lorajax.runner"),
    ("lorajax.engine",),
    ("cluster.launch",),
)
"""Lowest first; a module imports only from floors strictly below its own."""

ON_USE = {
    ("cluster.launch", "cluster.http_front"),
    ("lorajax.cli_ask", "readline"),
    ("lorajax.cli_files", "lorajax.convert"),
    ("lorajax.cli_files", "lorajax.doctor"),
    ("lorajax.cli_serve", "cluster.launch"),
    ("lorajax.cli_types", "whatever its caller names"),
}
"""Who imports what while it runs, by name: the only imports that may point up, and none may be added in passing."""

_IMPORTERS = ("import_on_use", "import_module", "__import__")
WITHOUT_JAX = ("lorajax.scheduler", "lorajax.cli", "cluster.worker", "cluster.client", "cluster.catalogue")


def _modules() -> dict[str, Path]:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}


MODULES = _modules()
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def _imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & MODULES.keys()


def _imports_on_use(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _IMPORTERS:
            name = node.args[0]
            found.add(name.value if isinstance(name, ast.Constant) else "whatever its caller names")
    return found


def test_every_module_has_a_floor():
    assert FLOOR_OF.keys() == MODULES.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    upward = {other for other in _imports(MODULES[name]) if FLOOR_OF[other] >= FLOOR_OF[name]}
    assert not upward, f"{name} (floor {FLOOR_OF[name]}) imports {upward}"


def test_imports_on_use_are_those_that_are_listed():
    assert {(name, other) for name, file in MODULES.items() for other in _imports_on_use(file)} == ON_USE


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_the_host_half_runs_without_jax(name):
    code = f"import {name}, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
