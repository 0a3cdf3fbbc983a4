"""The choice between implementations."""

import logging

import jax
import numpy as np
import pytest

from pallas_kernels.cases import LORA_CASES
from pallas_kernels.ops import MOSAIC, REFERENCE, TRITON, XLA, named
from tests.pallas_kernels import claims

MIXED = next(case for case in LORA_CASES if case.name == "unaligned runs")


@pytest.mark.parametrize("ops", [REFERENCE, XLA, MOSAIC, TRITON], ids=lambda ops: ops.name)
def test_an_implementation_is_found_by_its_name(ops):
    assert named(ops.name) is ops


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="--kernels 'cuda' is not one of reference, xla, native, mosaic, triton"):
        named("cuda")


@pytest.mark.parametrize("ops", [MOSAIC, TRITON], ids=lambda ops: ops.name)
def test_what_a_gpu_kernel_does_not_take_xla_serves(ops):
    x, pages, work = claims.lora_inputs(MIXED, "float32")
    prepared = ops.prepare(work, len(x), len(pages[0][0]))
    for actual, wanted in zip(jax.jit(ops.lora)(x, pages, prepared), jax.jit(XLA.lora)(x, pages, work), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-5)


def test_the_log_says_so_once(caplog):
    x, pages, work = claims.lora_inputs(MIXED, "float16")
    with caplog.at_level(logging.WARNING, "pallas_kernels.ops"):
        for _ in range(3):
            jax.eval_shape(MOSAIC.lora, x, pages, work)
    assert [record.message for record in caplog.records] == [
        "pallas_kernels.mosaic_lora does not take this, pallas_kernels.xla_lora serves instead: "
        "got a work list without tiles, wanted one that went through `tiled`"
    ]


def test_other_kernels_take_the_work_as_it_is():
    _, _, work = claims.lora_inputs(MIXED, "float32")
    assert XLA.prepare(work, 64, 136) is work
