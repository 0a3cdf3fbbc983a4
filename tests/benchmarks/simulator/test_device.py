"""Seconds of a step, added up by hand."""

from dataclasses import replace

import pytest

from benchmarks.simulator.device import Kernels, Roofline, Shapes, StepModel, StepWork, attended_pairs

MODEL = StepModel(
    base=Roofline(overhead_s=1.0, weights_s=10.0, token_s=1.0),
    context_s=0.01,
    adapters_s=100.0,
    adapter_token_s=5.0,
    row_s=2.0,
    prefill_row_s=0.5,
    decode_row_s=0.25,
)
# Two prompts' tokens of rank 8, three tokens that decode of ranks 8, 16 and none; two adapters.
WORK = StepWork(
    prefill_tokens=2,
    decode_sequences=3,
    context_tokens=100,
    prefill_by_rank={8: 2},
    decode_by_rank={0: 1, 8: 1, 16: 1},
    adapter_ranks=(8, 16),
)


def model(kernels):
    return replace(MODEL, kernels=kernels)


def test_the_base_pays_nothing_for_adapters():
    assert MODEL.step_s(StepWork(prefill_tokens=0, decode_sequences=4, context_tokens=100)) == 1 + 10 + 1


def test_many_tokens_take_longer_than_the_weights():
    assert MODEL.step_s(StepWork(prefill_tokens=30, decode_sequences=4, context_tokens=0)) == 1 + 34


def test_a_prompt_pays_for_what_its_tokens_attend_to_and_an_answer_for_each_sequence():
    costly = replace(MODEL, attended_s=0.125, sequence_s=2.0)
    assert costly.step_s(replace(WORK, attended_pairs=40)) == MODEL.step_s(WORK) + 40 * 0.125 + 3 * 2.0


@pytest.mark.parametrize(("start", "num_tokens"), [(0, 1), (0, 5), (7, 1), (7, 3)])
def test_a_token_attends_to_itself_and_all_before_it(start, num_tokens):
    assert attended_pairs(start, num_tokens) == sum(place + 1 for place in range(start, start + num_tokens))


def test_rank_exact_kernels_cost_each_token_its_own_rank():
    lora = 100 + 2 * (8 + 16) + 2 * (5 + 0.5 * 8) + (5 + 0.25 * 8) + (5 + 0.25 * 16)
    assert model(Kernels.RANK_EXACT).step_s(WORK) == pytest.approx(1 + 10 + 1 + lora)


def test_batch_max_kernels_cost_each_token_the_largest_rank_of_the_step():
    lora = 100 + 2 * (8 + 16) + 2 * (5 + 0.5 * 16) + 2 * (5 + 0.25 * 16)
    assert model(Kernels.BATCH_MAX).lora_s(WORK) == pytest.approx(lora)


def test_server_max_kernels_read_every_adapter_as_if_it_had_the_largest_rank_of_the_host():
    lora = 100 + 2 * (2 * 128) + 2 * (5 + 0.5 * 128) + 2 * (5 + 0.25 * 128)
    assert model(Kernels.SERVER_MAX).lora_s(replace(WORK, host_rank=128)) == pytest.approx(lora)


def test_all_kernels_cost_the_same_where_all_ranks_are():
    work = replace(WORK, prefill_by_rank={8: 2}, decode_by_rank={8: 3}, adapter_ranks=(8, 8), host_rank=8)
    assert len({model(kernels).step_s(work) for kernels in Kernels}) == 1


@pytest.mark.parametrize("kernels", Kernels)
def test_only_rank_exact_kernels_do_not_mix(kernels):
    assert (kernels.mixing == 0) == (kernels is Kernels.RANK_EXACT)


@pytest.mark.parametrize(
    ("prefill", "decode", "seconds"), [(0, 1, 1.0), (0, 8, 1.0), (0, 9, 2.0), (1, 1, 3.0), (40, 0, 3.0), (41, 3, 3.3)]
)
def test_a_step_is_padded_to_the_next_shape(prefill, decode, seconds):
    shapes = Shapes(decode=((8, 1.0), (16, 2.0)), mixed=((40, 3.0),))
    assert shapes.base_s(prefill, decode) == pytest.approx(seconds)
