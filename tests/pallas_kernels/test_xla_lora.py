"""Grouped LoRA for XLA: the reference's numbers, and nobody else's pages."""

import pytest

from pallas_kernels.cases import LORA_CASES
from pallas_kernels.ops import XLA
from pallas_kernels.xla_lora import window_tokens
from tests.pallas_kernels import claims
from tests.tolerances import assert_close

LORA = claims.jitted(XLA).lora
MIXED = next(case for case in LORA_CASES if case.name == "unaligned runs")


@claims.each_dtype
@claims.each_lora_case
def test_agrees_with_the_reference(case, dtype):
    claims.lora_agrees(LORA, case, dtype)


@claims.each_lora_case
def test_unnamed_pages_are_never_read(case):
    claims.unnamed_pages_are_never_read(LORA, case)


@claims.each_adapter_case
def test_a_broken_adapter_harms_its_own_tokens_only(case):
    claims.a_broken_adapter_harms_its_own_tokens_only(LORA, case)


@claims.each_lora_case
def test_a_broken_token_harms_itself_only(case):
    claims.a_broken_token_harms_itself_only(LORA, case)


@pytest.mark.parametrize("index", range(len(MIXED.runs)))
@claims.each_dtype
def test_a_run_does_not_feel_the_others(index, dtype):
    together, alone = claims.run_alone(LORA, MIXED, index, dtype)
    assert_close(together, alone, dtype)


@pytest.mark.parametrize("num_tokens", [1, 3, 8, 16, 32, 33, 64, 512])
def test_a_window_is_no_longer_than_the_step(num_tokens):
    assert 1 <= window_tokens(num_tokens) <= num_tokens
