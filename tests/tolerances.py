"""How far a fast op may lie from its slow twin, by dtype, relative to the largest value. Owns: the one table."""

import numpy as np

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Float32 is summing in another order; the others are two roundings of their 11 and 8 bits of mantissa."""


def assert_close(actual, wanted, dtype):
    """Fail unless every value is within the dtype's tolerance of the largest wanted one."""
    wanted = np.asarray(wanted, np.float64)
    atol = TOLERANCE[np.dtype(dtype).name] * max(1.0, np.abs(wanted).max(initial=0.0))
    np.testing.assert_allclose(np.asarray(actual, np.float64), wanted, rtol=0, atol=atol)
