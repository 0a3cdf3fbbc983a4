"""The helpers of the work-list records."""

import numpy as np
import pytest

from pallas_kernels.cases import LORA_CASES
from pallas_kernels.work import padded
from tests.pallas_kernels import claims


@pytest.mark.parametrize(
    ("values", "shape", "wanted"),
    [([1, 2], (4,), [1, 2, 0, 0]), ([], (2,), [0, 0]), (3, (), 3), ([[1], [2]], (2, 2), [[1, 0], [2, 0]])],
)
def test_padding_is_zeros_after_the_values(values, shape, wanted):
    out = padded(values, shape, np.int32)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, wanted)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="broadcast"):
        padded([1, 2, 3], (2,), np.int32)


def test_shifted_work_names_the_same_pages_further_on():
    _, _, work = claims.lora_inputs(LORA_CASES[0], "float32")
    np.testing.assert_array_equal(work.shifted(100).page, work.page + 100)
    assert work.shifted(100).start is work.start
