"""The counts of the kernels' work: they follow ranks."""

import pytest

from benchmarks.kernels_estimate import CASES, LAYER, cost


def total(case, field):
    work, num_tokens = CASES[case]
    return sum(getattr(cost(work, num_tokens, *widths), field) for widths in LAYER.values())


@pytest.mark.parametrize("field", ["memory_bytes", "cache_bytes", "cycles"])
def test_one_more_of_rank_128_costs_its_own_rank_alone(field):
    assert total("decode, 31 of rank 8, one of 128", field) < 1.55 * total("decode, 32 of rank 8", field)


def test_the_bytes_of_rank_8_are_a_sixteenth_of_those_of_rank_128():
    assert total("decode, 32 of rank 8", "memory_bytes") < 0.08 * total("decode, 32 of rank 128", "memory_bytes")


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("decode")])
def test_decoding_waits_for_memory_not_for_tensor_cores(case):
    work, num_tokens = CASES[case]
    assert all(
        c.seconds() < 1.5 * c.memory_bytes / 4.3e12 + 6e-6 for c in (cost(work, num_tokens, *w) for w in LAYER.values())
    )
