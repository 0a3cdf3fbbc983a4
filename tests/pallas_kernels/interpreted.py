"""Runs Mosaic GPU kernels on a CPU, in JAX's interpreter. Owns: the one place that knows its private path."""

import jax
from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter
from jax.experimental.pallas import mosaic_gpu as plgpu

H200 = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", platform="gpu", num_cores=132)
MESH = jax.sharding.AbstractMesh((), (), abstract_device=H200)


def without_races(call):
    """What `call()` gives once it is done; fails where the interpreter finds a data race."""
    interpreter.gpu_callbacks.reset_gpu_interpret_mode_state()  # an earlier failure leaves its state
    params = plgpu.InterpretGPUParams(detect_races=True)
    with jax.sharding.use_abstract_mesh(MESH), plgpu.force_gpu_interpret_mode(params):
        out = jax.block_until_ready(call())
    assert not interpreter.get_races().races_found
    return out
