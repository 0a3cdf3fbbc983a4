"""Ranks and lengths."""

import numpy as np
import pytest

from benchmarks.workloads import lengths, ranks


@pytest.fixture
def random():
    return np.random.default_rng(1)


def test_families_are_neighbours_of_one_rank(random):
    np.testing.assert_array_equal(ranks.families(10, random), [8, 8, 16, 16, 32, 32, 64, 64, 128, 128])


def test_mixed_ranks_are_equally_often_among_every_five(random):
    mixed = ranks.parsed("mixed")(20, random).reshape(4, 5)
    np.testing.assert_array_equal(np.sort(mixed), [ranks.RANKS] * 4)
    assert (mixed != np.sort(mixed)).any()


def test_skewed_ranks_halve(random):
    found = ranks.parsed("skewed")(310, random)
    assert [(found == rank).sum() for rank in ranks.RANKS] == [160, 80, 40, 20, 10]


def test_uniform_is_one_rank(random):
    assert len(set(ranks.parsed("uniform")(9, random).tolist())) == 1


def test_ranks_are_named_one_by_one(random):
    assert sorted(ranks.parsed("8,64")(4, random).tolist()) == [8, 8, 64, 64]


@pytest.mark.parametrize("text", ["", "8,", "0", "many"])
def test_other_texts_are_no_mix(text):
    with pytest.raises(ValueError, match=r"is no mix; write mixed, "):
        ranks.parsed(text)


@pytest.mark.parametrize(
    ("name", "prompt", "output"), [("conv", (760, 1126), (151, 201)), ("code", (1097, 2026), (16, 23))]
)
def test_fits_have_the_median_and_mean_of_their_table(name, prompt, output, random):
    found = lengths.FITS[name](np.arange(200_000), random)
    for (median, mean), tokens in zip((prompt, output), found, strict=True):
        assert np.median(tokens) == pytest.approx(median, rel=0.02)
        assert tokens.mean() == pytest.approx(mean, rel=0.03)


def test_prompt_of_a_trace_keeps_its_answer_and_order(random):
    prompt, output = lengths.recorded(np.array([10, 20, 0]), np.array([1, 2, 3]))(np.arange(4), random)
    assert (prompt.tolist(), output.tolist()) == ([10, 20, 1, 10], [1, 2, 3, 1])


def test_request_that_stands_for_several_has_one_length_of_its_own_only(random):
    prompt, _ = lengths.recorded(np.arange(100), np.ones(100))(np.array([5, 5, 6]), random)
    assert prompt.tolist() == [5, (5 + 7919) % 100, 6]


def test_lengths_are_scaled_then_cut_to_the_context(random):
    plain = lengths.recorded(np.array([1000, 40]), np.array([60, 10]))
    prompt, output = lengths.scaled(plain, 0.5, 100)(np.arange(2), random)
    assert (prompt.tolist(), output.tolist()) == ([70, 20], [30, 5])
