"""The LoRA kernels as H200 machine code, on a machine without a GPU: registers, spills, instructions, passes.

Needs two wheels beside jax, of its version, and NVIDIA's assembler; skipped where they are absent:
pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt. This file is also the program that compiles, run beside the
tests so that they never load a CUDA plugin.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from pallas_kernels.ops import MOSAIC
from tests.pallas_kernels.interpreted import MESH
from tests.pallas_kernels.lora_steps import step, weights

H200 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 patch: 0 } device_description_str: "NVIDIA H200"
"""
STEPS = [
    ("Llama-3-8B qkv", 8),
    ("Llama-3-8B qkv", 32),
    ("Llama-3-8B qkv", 2048),
    ("Llama-3-8B gate and up", 32),
    ("Llama-3-8B down", 2048),
    ("Llama-3-70B over 8, qkv", 256),
    ("SmolLM2-135M qkv", 32),
]
"""(layer, tokens)"""


def layer(x, kernel, pages, work):
    """A linear layer of the engine."""
    return MOSAIC.adapted(MOSAIC, x, kernel, pages, work)


def two_layers(x, kernel, pages, work):
    """Square layers, one after the other, with the pages of both in one pool."""
    for i in range(2):
        x = layer(x, kernel, pages, work.shifted(256 * i)).reshape(x.shape)
    return x


def compile_steps():
    """Write out, for each step, what the assembler says of its kernels, their PTX, and the program they are in."""
    topology = topologies.get_topology_desc("h200", "cuda", target_config=H200, topology="1x1x1")
    everywhere = NamedSharding(topologies.make_mesh(topology, (1,), ("x",)), PartitionSpec())

    def write(title, program, name, num_tokens):
        x, pages, work = step(name, num_tokens)
        placed = lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=everywhere)
        sys.stdout.write(f"STEP {title}\n")
        sys.stdout.flush()  # before what the assembler says, which goes past Python
        with jax.sharding.use_abstract_mesh(MESH):
            lowered = jax.jit(program).lower(*jax.tree.map(placed, (x, weights(name), pages, work)))
        sys.stdout.write(lowered.compile().as_text())

    for name, num_tokens in STEPS:
        write(f"{name} {num_tokens}", layer, name, num_tokens)
    write("two layers", two_layers, "Llama-3-8B out", 32)


@pytest.fixture(scope="module")
def compiled():
    """What `compile_steps` printed, by step."""
    for wheel in ("jax-cuda13-plugin", "jax-cuda13-pjrt"):
        try:
            version = importlib.metadata.version(wheel)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"the wheel {wheel} is not installed")
        if version != jax.__version__:
            pytest.skip(f"the wheel {wheel} is of version {version}, and jax of {jax.__version__}")
    if shutil.which("ptxas") is None:
        pytest.skip("no ptxas on the path; a CUDA toolkit has one")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # else the plugin wants cuDNN
        "JAX_ENABLE_COMPILATION_CACHE": "0",  # what is cached is not assembled
        "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false",
        "MOSAIC_GPU_DUMP_PTX": "1",
        "MOSAIC_GPU_DUMP_PTXAS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run(
        [sys.executable, __file__], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:]
    parts = re.split(r"^STEP (.*)$", run.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


each_step = pytest.mark.parametrize("step", [f"{name} {num_tokens}" for name, num_tokens in STEPS])


@each_step
def test_nothing_is_spilled(compiled, step):
    spills = re.findall(r"(\d+) bytes spill", compiled[step])
    assert spills
    assert set(spills) == {"0"}


@each_step
def test_registers_leave_room_for_a_second_block(compiled, step):
    used = [int(number) for number in re.findall(r"Used (\d+) registers", compiled[step])]
    assert len(used) == 2
    assert max(used) <= 168


@each_step
def test_both_kernels_multiply_on_tensor_cores_and_load_by_tma(compiled, step):
    kernels = compiled[step].split(".entry ")[1:]
    assert len(kernels) == 2
    for kernel in kernels:
        assert "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16" in kernel
        assert re.search(r"cp.async.bulk.tensor.[45]d.shared", kernel)


@each_step
def test_nothing_is_copied(compiled, step):
    assert " copy(" not in compiled[step].split("\nENTRY ")[1]


@each_step
def test_a_layer_is_two_kernels_and_one_product_that_adds(compiled, step):
    program = compiled[step].split("\nENTRY ")[1]
    (product,) = [line for line in program.splitlines() if 'custom_call_target="__cublas$lt$matmul"' in line]
    assert '"beta":1' in product
    assert "output_to_operand_aliasing={{0}: (2, {})}" in product
    assert program.count('custom_call_target="mosaic_gpu') == 2
    assert all("broadcast" in line for line in program.splitlines() if " fusion(" in line)


def test_every_layer_shares_what_is_derived_from_the_work(compiled):
    program = compiled["two layers"].split("\nENTRY ")[1]
    assert program.count('custom_call_target="mosaic_gpu') == 4
    assert len([line for line in program.splitlines() if " fusion(" in line and "broadcast" in line]) == 3


if __name__ == "__main__":
    compile_steps()
