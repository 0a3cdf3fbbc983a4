"""The product over packed weights, and with updates, agrees with the plain one; packing keeps every value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import native, reference
from pallas_kernels.cases import lora_arrays
from pallas_kernels.ops import PACKED, REFERENCE
from tests.pallas_kernels import claims
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def _processor_can(native_kernels):
    if not native.projects(np.dtype(jnp.bfloat16), [(2, 32)]):
        pytest.skip("this processor has no AVX512-BF16")


def arrays(num_tokens, *shape):
    rng = np.random.default_rng(num_tokens)
    x, kernel = rng.normal(size=(num_tokens, shape[0])), rng.normal(size=shape)
    return jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 8, 15, 64])
@pytest.mark.parametrize("shape", [(130, 96), (64, 2, 48), (576, 3, 5, 64)])
def test_product_over_packed_weights_is_the_product(num_tokens, shape):
    x, kernel = arrays(num_tokens, *shape)
    got, wanted = native.project(x, native.packed(kernel)), reference.project(x, kernel)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-4 * float(jnp.max(jnp.abs(wanted))), rtol=0)


def test_packing_only_moves_values():
    _, kernel = arrays(1, 64, 2, 48)
    assert sorted(np.asarray(kernel, np.float32).ravel()) == sorted(
        np.asarray(native.packed(kernel), np.float32).ravel()
    )


@pytest.mark.parametrize(("dtype", "width"), [("float32", (64, 64)), ("bfloat16", (63, 64)), ("bfloat16", (64, 40))])
def test_what_it_cannot_take_is_left_to_xla(dtype, width):
    assert not native.projects(np.dtype(dtype), [(64, 64), width])


JOINED = [((64, 96), (1,)), ((64, 2, 96), (1, 1)), ((64, 2, 5, 32), (3, 1, 1)), ((64, 2, 5, 16), (3, 1, 1))]
"""Kernel, and parts of its last axis but one that each target has in a group; the last is not of whole panels."""


def adapted_inputs(case, shape, parts):
    dtype = np.dtype(jnp.bfloat16)
    widths = [part * shape[-1] * int(np.prod(shape[1:-2])) for part in parts]
    each = [lora_arrays(case, (shape[0], width), dtype, seed=3) for width in widths]
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=shape) / shape[0] ** 0.5, dtype)
    return each[0].x, kernel, tuple((arrays.a, arrays.b) for arrays in each), jax.tree.map(jnp.asarray, each[0].work)


@claims.each_lora_case
@pytest.mark.parametrize(("shape", "parts"), JOINED)
def test_product_with_updates_is_the_product_and_then_the_updates(case, shape, parts):
    x, kernel, pages, work = adapted_inputs(case, shape, parts)
    got = jax.jit(lambda *inputs: PACKED.adapted(PACKED, *inputs))(x, native.packed(kernel), pages, work)
    wanted = jax.jit(lambda *inputs: REFERENCE.adapted(REFERENCE, *inputs))(x, kernel, pages, work)
    assert (got.shape, got.dtype) == (wanted.shape, jnp.float32)
    assert_close(got, wanted, "bfloat16")


@claims.each_lora_case
def test_a_run_has_the_same_bits_alone(case):
    x, kernel, pages, work = adapted_inputs(case, *JOINED[2])
    weights = native.packed(kernel)

    def lora(x, pages, work):
        return (PACKED.adapted(PACKED, x, weights, pages, work),)

    for index in range(len(case.runs)):
        together, alone = claims.alone_of(lora, (x, pages, work), case, index)
        np.testing.assert_array_equal(together, alone)
