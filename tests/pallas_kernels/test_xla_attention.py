"""Ragged paged attention for XLA: the reference's numbers, and nobody else's pages."""

import pytest

from pallas_kernels.cases import ATTENTION_CASES
from pallas_kernels.ops import XLA
from tests.pallas_kernels import claims
from tests.tolerances import assert_close

ATTENTION = claims.jitted(XLA).attention
MIXED = next(case for case in ATTENTION_CASES if case.name == "prefill and decode")


@claims.each_dtype
@claims.each_attention_case
def test_agrees_with_the_reference(case, dtype):
    claims.attention_agrees(ATTENTION, case, dtype)


@claims.each_attention_case
def test_what_is_not_seen_is_never_read(case):
    claims.what_is_not_seen_is_never_read(ATTENTION, case)


@claims.each_attention_case
def test_a_broken_sequence_harms_itself_only(case):
    claims.a_broken_sequence_harms_itself_only(ATTENTION, case)


@pytest.mark.parametrize("index", range(len(MIXED.sequences)))
@claims.each_dtype
def test_a_sequence_does_not_feel_the_others(index, dtype):
    together, alone = claims.sequence_alone(ATTENTION, MIXED, index, dtype)
    assert_close(together, alone, dtype)
