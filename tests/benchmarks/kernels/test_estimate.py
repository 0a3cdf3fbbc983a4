"""The counts of the kernels' work: they follow ranks."""

import pytest

from benchmarks.kernels.cases import CASES, LLAMA_3_8B
from benchmarks.kernels.estimate import MEMORY, judge, layer_costs

CASE = {case.name: case for case in CASES}


def total(name, field):
    return sum(getattr(cost, field) for cost in layer_costs(CASE[name]))


@pytest.mark.parametrize("field", ["memory_bytes", "cache_bytes", "cycles"])
def test_one_more_of_rank_128_costs_its_own_rank_alone(field):
    assert total("decode-skewed", field) < 1.55 * total("decode-r8", field)


def test_the_bytes_of_rank_8_are_a_sixteenth_of_those_of_rank_128():
    assert total("decode-r8", "memory_bytes") < 0.08 * total("decode-r128", "memory_bytes")


@pytest.mark.parametrize("name", [case.name for case in CASES if not case.is_prefill])
def test_decoding_waits_for_memory_not_for_tensor_cores(name):
    assert all(cost.seconds() < 1.5 * cost.memory_bytes / MEMORY + 6e-6 for cost in layer_costs(CASE[name]))


@pytest.mark.parametrize("name", ["decode-mixed", "prefill-2048"])
def test_floors_count_the_bytes_that_the_kernels_are_said_to_move(name):
    assert sum(map(CASE[name].least_bytes, LLAMA_3_8B)) == pytest.approx(total(name, "memory_bytes"))


def test_padding_to_rank_128_costs_what_128_for_all_costs():
    padded = sum(cost.memory_bytes for cost in layer_costs(CASE["decode-skewed"], is_padded=True))
    assert padded == total("decode-r128", "memory_bytes")


def test_every_goal_but_those_beside_peers_has_an_estimate():
    assert all((goal.value is None) == ("times as fast" in goal.what) for goal in judge().goals())
