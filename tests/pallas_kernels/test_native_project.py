"""The product over packed weights agrees with the plain one, and packing keeps every value."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import native, reference


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
