"""The attention kernel as H200 machine code, on a machine without a GPU: registers, spills, instructions, copies.

Needs two wheels beside jax, of its version, and NVIDIA's assembler; skipped where they are absent:
pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt. This file is also the program that compiles, run beside the
tests so that they never load a CUDA plugin.
"""

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from pallas_kernels.mosaic_attention import paged_attention
from pallas_kernels.work import AttentionWork
from tests.pallas_kernels.interpreted import MESH

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
STEPS = {
    "Llama-3-8B decoding": ((8, 4, 128), 64, 0, None),
    "Llama-3-8B": ((8, 4, 128), 2112, 97, None),
    "Llama-3-70B over 8": ((1, 8, 128), 64, 17, 4096),
    "SmolLM2-135M": ((3, 3, 64), 64, 17, None),
}
"""((key/value heads, query heads for each, head size), tokens, tiles, window)"""


def compile_steps():
    """Write out, for each step, what the assembler says of its kernels, their PTX, and the program they are in."""
    topology = topologies.get_topology_desc("h200", "cuda", target_config=H200, topology="1x1x1")
    everywhere = NamedSharding(topologies.make_mesh(topology, (1,), ("x",)), PartitionSpec())
    for name, ((kv_heads, group, head_dim), num_tokens, num_tiles, window) in STEPS.items():
        array = functools.partial(jax.ShapeDtypeStruct, sharding=everywhere)
        ints = lambda *shape, array=array: array(shape, jnp.int32)
        tokens, rows, tiles = ints(num_tokens), ints(64), ints(num_tiles)
        work = AttentionWork(
            row=tokens, position=tokens, slot=tokens, table=ints(64, 128), decode_token=rows, num_decode=ints(),
            tile_token=tiles, tile_count=tiles, num_tiles=ints(),
        )  # fmt: skip
        q = array((num_tokens, kv_heads, group, head_dim), jnp.bfloat16)
        kv = array((4096, 64, 2, kv_heads, head_dim), jnp.bfloat16)
        sys.stdout.write(f"STEP {name}\n")
        sys.stdout.flush()  # before what the assembler says, which goes past Python
        with jax.sharding.use_abstract_mesh(MESH):
            lowered = jax.jit(functools.partial(paged_attention, window=window)).lower(q, kv, work)
        sys.stdout.write(lowered.compile().as_text())


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


each_step = pytest.mark.parametrize("step", STEPS)


@each_step
def test_nothing_is_spilled(compiled, step):
    spills = re.findall(r"(\d+) bytes spill", compiled[step])
    assert spills
    assert set(spills) == {"0"}


@each_step
def test_registers_leave_room(compiled, step):
    used = [int(number) for number in re.findall(r"Used (\d+) registers", compiled[step])]
    assert max(used) <= 248


@each_step
def test_every_kernel_multiplies_on_tensor_cores_and_loads_by_tma(compiled, step):
    kernels = compiled[step].split(".entry ")[1:]
    assert len(kernels) == (2 if STEPS[step][2] else 1)
    for kernel in kernels:
        assert "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16" in kernel
        assert re.search(r"cp.async.bulk.tensor.[45]d.shared", kernel)


@each_step
def test_the_output_is_never_copied(compiled, step):
    program = compiled[step].split("\nENTRY ")[1]
    assert " copy(" not in program
    assert program.count("output_to_operand_aliasing") == program.count('custom_call_target="mosaic_gpu')


@each_step
def test_merging_splits_is_one_launch(compiled, step):
    assert compiled[step].split("\nENTRY ")[1].count(" fusion(") <= 1


if __name__ == "__main__":
    compile_steps()
