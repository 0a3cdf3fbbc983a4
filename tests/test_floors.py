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
        "cluster.by_name",
        "cluster.child_process",
        "cluster.control_pb2",
        "cluster.memory",
        "cluster.names",
        "cluster.operating_points",
        "cluster.pace",
        "cluster.resolution",
        "cluster.restarts",
        "cluster.serving_pb2",
        "lorajax.errors",
        "lorajax.pages",
        "lorajax.sampler",
        "lorajax.spec",
        "pallas_kernels.mosaic_attention_kernel",
        "pallas_kernels.work",
    ),
    (
        "checkpoints.fields",
        "checkpoints.roots",
        "cluster.admission",
        "cluster.catalogue",
        "cluster.control_pb2_grpc",
        "cluster.fair_queue",
        "cluster.flights",
        "cluster.host_channels",
        "cluster.records",
        "cluster.serving_pb2_grpc",
        "cluster.supervisor",
        "cluster.view",
        "lorajax.adapter_pages",
        "lorajax.bundled",
        "lorajax.config",
        "lorajax.demo_server",
        "lorajax.layers",
        "lorajax.mesh",
        "lorajax.sequence",
        "lorajax.text",
        "pallas_kernels.mosaic_attention",
        "pallas_kernels.native",
        "pallas_kernels.reference",
        "pallas_kernels.tiles",
        "pallas_kernels.xla_attention",
        "pallas_kernels.xla_lora",
    ),
    (
        "checkpoints.gguf_header",
        "checkpoints.names",
        "checkpoints.peft_config",
        "checkpoints.safetensors_files",
        "cluster.client",
        "cluster.config",
        "cluster.copy_price",
        "cluster.demand",
        "cluster.events",
        "cluster.gate",
        "cluster.host_time",
        "cluster.metrics",
        "cluster.moves",
        "cluster.placement_input",
        "cluster.registrations",
        "cluster.registry",
        "cluster.tickets",
        "cluster.turns",
        "cluster.view_wire",
        "lorajax.chat",
        "lorajax.demo_cluster",
        "lorajax.limits",
        "lorajax.shares",
        "pallas_kernels.cases",
        "pallas_kernels.mosaic_parts",
        "pallas_kernels.triton_lora",
    ),
    (
        "checkpoints.gguf_files",
        "checkpoints.hf",
        "checkpoints.peft",
        "checkpoints.tokenizer",
        "cluster.calls",
        "cluster.control_wire",
        "cluster.host_times",
        "cluster.hosts",
        "cluster.orders",
        "cluster.placement_classes",
        "cluster.placement_loraserve",
        "cluster.profile_points",
        "cluster.routing_input",
        "cluster.seams",
        "cluster.toml_values",
        "cluster.world",
        "lorajax.cli_types",
        "lorajax.demo_burst",
        "lorajax.stretch",
        "pallas_kernels.mosaic_expand",
        "pallas_kernels.mosaic_shrink",
        "pallas_kernels.tuned",
    ),
    (
        "checkpoints.shapes",
        "cluster.call_wire",
        "cluster.closed_loop",
        "cluster.cluster_config",
        "cluster.collective",
        "cluster.drains",
        "cluster.loads",
        "cluster.openai_query",
        "cluster.peer",
        "cluster.pins",
        "cluster.placement_board",
        "cluster.process",
        "cluster.rounds",
        "cluster.routing",
        "cluster.transcript",
        "cluster.wire",
        "lorajax.cli_admin",
        "lorajax.cli_ask",
        "lorajax.cli_serve",
        "lorajax.demo_view",
        "lorajax.plan",
        "pallas_kernels.mosaic_lora",
    ),
    (
        "checkpoints.store",
        "cluster.emit",
        "cluster.guard",
        "cluster.launch_plan",
        "cluster.name_calls",
        "cluster.openai_reply",
        "cluster.passage",
        "cluster.placement_ours",
        "cluster.proxy",
        "cluster.rendezvous",
        "cluster.routings",
        "cluster.worker_adapters",
        "cluster.worker_inference",
        "lorajax.batch",
        "lorajax.cli_profile",
        "lorajax.demo",
        "lorajax.draw",
        "lorajax.residency",
        "pallas_kernels.ops",
    ),
    (
        "checkpoints.base",
        "cluster.adapter_pool",
        "cluster.coordinator",
        "cluster.front_door",
        "cluster.http_server",
        "cluster.launcher",
        "cluster.placement",
        "cluster.server",
        "cluster.worker",
        "lorajax.lora",
        "lorajax.packing",
        "lorajax.preflight",
        "lorajax.scheduler",
    ),
    (
        "cluster.control_service",
        "cluster.follower",
        "cluster.http_front",
        "cluster.order_runner",
        "lorajax.cli_cluster",
        "lorajax.convert",
        "lorajax.doctor",
        "lorajax.models.decoder",
    ),
    (
        "cluster.admin",
        "cluster.gateway",
        "cluster.http_gateway",
        "cluster.http_host",
        "cluster.membership",
        "lorajax.cli_files",
        "lorajax.models.attention",
    ),
    (
        "cluster.coordinator_server",
        "lorajax.cli",
        "lorajax.models.llama",
        "lorajax.models.qwen2",
        "lorajax.models.qwen3",
    ),
    (
        "lorajax.__main__",
        "lorajax.models.registry",
    ),
    ("lorajax.runner",),
    (
        "cluster.device",
        "cluster.lockstep",
        "cluster.step_log",
        "cluster.watchdog",
        "lorajax.engine",
    ),
    (
        "cluster.profile",
        "cluster.replica",
    ),
    ("cluster.launch",),
)
"""Lowest first; a module imports only from floors strictly below its own."""

ON_USE = {
    ("cluster.by_name", "whatever its caller names"),
    ("cluster.gateway", "cluster.http_gateway"),
    ("cluster.launch", "cluster.http_host"),
    ("lorajax.cli_ask", "readline"),
    ("lorajax.cli_cluster", "cluster.coordinator_server"),
    ("lorajax.cli_cluster", "cluster.gateway"),
    ("lorajax.cli_cluster", "cluster.launch"),
    ("lorajax.cli_cluster", "cluster.rendezvous"),
    ("lorajax.cli_files", "lorajax.convert"),
    ("lorajax.cli_files", "lorajax.doctor"),
    ("lorajax.cli_profile", "cluster.profile"),
    ("lorajax.cli_serve", "cluster.launch"),
    ("lorajax.cli_types", "whatever its caller names"),
}
"""Who imports what while it runs, by name: the only imports that may point up, and none may be added in passing."""

_IMPORTERS = ("import_on_use", "import_module", "__import__")
WITHOUT_JAX = (
    "lorajax.scheduler",
    "lorajax.cli",
    "cluster.worker",
    "cluster.client",
    "cluster.catalogue",
    "cluster.coordinator_server",
    "cluster.gateway",
    "cluster.launcher",
)


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
