"""Sampling against a twin that sorts, penalties against loops, draws against their distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorajax.sampler import (
    MAX_LOGPROBS,
    Penalties,
    SamplingArrays,
    is_finite,
    logprobs,
    most_likely,
    penalized,
    sampled,
)
from tests.tolerances import assert_close

ROWS, VOCAB = 512, 37
SAMPLED = jax.jit(sampled)


def arrays(size, **fields):
    """Sampling arrays of `size` rows: temperature 1, every filter off, seed (0, row), unless told otherwise.

    A field is one value for all rows or a column.
    """
    defaults = {
        "temperature": np.ones(size, np.float32),
        "top_p": np.ones(size, np.float32),
        "top_k": np.zeros(size, np.int32),
        "min_p": np.zeros(size, np.float32),
        "seed": np.stack([np.zeros(size), np.arange(size)], 1).astype(np.uint32),
        "num_output": np.zeros(size, np.int32),
    }
    columns = {
        name: np.broadcast_to(fields.get(name, default), default.shape).astype(default.dtype)
        for name, default in defaults.items()
    }
    return SamplingArrays(**{name: jnp.asarray(column) for name, column in columns.items()})


def kept_by_sorting(logits, top_k, top_p, min_p):
    """Which tokens of one row stay: top-k, then top-p over what top-k left, then min-p; ties with the last stay."""
    kept = np.ones(len(logits), bool)
    if top_k:
        kept &= logits >= np.sort(logits)[::-1][: min(top_k, len(logits))][-1]
    if top_p < 1:
        order = np.argsort(np.where(kept, -logits, np.inf), kind="stable")
        probability = np.where(kept, np.exp(logits - logits.max()), 0)[order]
        reached = np.cumsum(probability / probability.sum())
        kept &= logits >= logits[order][np.searchsorted(reached, top_p)]
    return kept & (logits >= logits.max() + np.log(min_p)) if min_p else kept


def noise(seed, num_output, vocab):
    """What a draw adds to the logits: Gumbel noise keyed by the seed and the number of tokens generated so far."""
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(seed)), num_output)
    return np.asarray(jax.random.gumbel(key, (vocab,), jnp.float32))


def random_rows(seed, *, with_ties):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (ROWS, VOCAB))
    logits = (np.round(logits * 2) / 2 if with_ties else logits).astype(np.float32)
    return logits, {
        "temperature": rng.choice([0.25, 0.5, 1.0, 2.0], ROWS).astype(np.float32),
        "top_k": rng.choice([0, 0, 1, 2, 5, 36, 37, 1000], ROWS).astype(np.int32),
        "top_p": np.where(rng.random(ROWS) < 0.3, 1, rng.uniform(0.01, 1, ROWS)).astype(np.float32),
        "min_p": np.where(rng.random(ROWS) < 0.5, 0, rng.uniform(0.01, 1, ROWS)).astype(np.float32),
        "seed": rng.integers(0, 2**32, (ROWS, 2), dtype=np.uint32),
        "num_output": rng.integers(0, 1000, ROWS).astype(np.int32),
    }


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_draw_is_the_best_noisy_token_that_sorting_keeps(seed, with_ties):
    logits, fields = random_rows(seed, with_ties=with_ties)
    drawn = np.asarray(SAMPLED(jnp.asarray(logits), arrays(ROWS, **fields)))
    for row in range(ROWS):
        scaled = logits[row] / fields["temperature"][row]
        kept = kept_by_sorting(scaled, *(fields[name][row] for name in ("top_k", "top_p", "min_p")))
        noisy = np.where(kept, scaled + noise(fields["seed"][row], fields["num_output"][row], VOCAB), -np.inf)
        assert drawn[row] == noisy.argmax(), row


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {1, 3, 4}),
        ({"top_p": 0.4}, {3}),
        ({"top_p": 0.6}, {1, 3, 4}),
        ({"min_p": 0.4}, {1, 3, 4}),
        ({"min_p": 1.0}, {3}),
        ({"top_k": 4, "top_p": 0.9375}, {1, 3, 4}),
        ({}, {0, 1, 2, 3, 4, 5}),
    ],
)
def test_filters_keep_what_they_promise_and_all_of_it(fields, kept):
    probability = [1 / 32, 7 / 32, 1 / 64, 15 / 32, 7 / 32, 3 / 64]
    size = 2048
    logits = jnp.asarray(np.log(np.array([probability] * size, np.float32)))
    assert set(np.unique(SAMPLED(logits, arrays(size, **fields))).tolist()) == kept


def test_draws_follow_the_distribution():
    size, logits = 8192, np.random.default_rng(1).normal(0, 1, 12).astype(np.float32)
    drawn = SAMPLED(jnp.asarray(np.tile(logits, (size, 1))), arrays(size))
    wanted = size * np.exp(logits) / np.exp(logits).sum()
    chi_square = ((np.bincount(drawn, minlength=12) - wanted) ** 2 / wanted).sum()
    assert chi_square < 31.3  # 11 degrees of freedom: exceeded once in a thousand seeds


def test_successive_draws_of_one_seed_follow_the_distribution():
    size, logits = 8192, np.random.default_rng(2).normal(0, 1, 12).astype(np.float32)
    sampling = arrays(size, temperature=2.0, seed=(7, 7), num_output=np.arange(size))
    drawn = SAMPLED(jnp.asarray(np.tile(logits, (size, 1))), sampling)
    wanted = size * np.exp(logits / 2) / np.exp(logits / 2).sum()
    chi_square = ((np.bincount(drawn, minlength=12) - wanted) ** 2 / wanted).sum()
    assert chi_square < 31.3


@pytest.mark.parametrize("size", [1, 5, 16])
def test_a_draw_does_not_depend_on_its_row_or_its_neighbours(size):
    logits, fields = random_rows(9, with_ties=False)
    together = np.asarray(SAMPLED(jnp.asarray(logits), arrays(ROWS, **fields)))
    chosen = np.random.default_rng(size).permutation(ROWS)[:size]
    apart = SAMPLED(
        jnp.asarray(logits[chosen]), arrays(size, **{name: field[chosen] for name, field in fields.items()})
    )
    np.testing.assert_array_equal(apart, together[chosen])


@pytest.mark.parametrize("with_ties", [False, True])
def test_temperature_zero_takes_the_most_likely_whatever_the_filters(with_ties):
    logits, fields = random_rows(11, with_ties=with_ties)
    fields["temperature"] = np.where(np.arange(ROWS) % 2, 0, fields["temperature"]).astype(np.float32)
    drawn = np.asarray(SAMPLED(jnp.asarray(logits), arrays(ROWS, **fields)))
    np.testing.assert_array_equal(drawn[1::2], logits[1::2].argmax(-1))


@pytest.mark.parametrize("vocab", [1, 2, 127, 128, 129, 1000])
def test_most_likely_is_the_first_of_the_largest(vocab):
    rng = np.random.default_rng(vocab)
    logits = rng.integers(-3, 3, (64, vocab)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.3] = -np.inf
    logits[0] = -np.inf
    np.testing.assert_array_equal(most_likely(jnp.asarray(logits)), logits.argmax(-1))


def test_penalties_are_those_of_a_loop():
    rng = np.random.default_rng(3)
    rows, vocab = 6, 20
    logits = rng.normal(0, 2, (rows, vocab)).astype(np.float32)
    counts = rng.integers(0, 3, (rows, vocab)).astype(np.int32)
    seen = (counts > 0) | (rng.random((rows, vocab)) < 0.3)
    repetition, presence, frequency = (
        np.array(row, np.float32) for row in ([1, 1.5, 0.5, 2, 1, 1], [0, 0, 0.5, -2, 1, 0], [0, 0, 1, 0.5, -1, 2])
    )
    wanted = logits.astype(np.float64)
    for row, token in np.ndindex(rows, vocab):
        if seen[row, token]:
            wanted[row, token] *= repetition[row] if wanted[row, token] < 0 else 1 / repetition[row]
        wanted[row, token] -= frequency[row] * counts[row, token] + presence[row] * (counts[row, token] > 0)
    fields = {"seen": seen, "counts": counts, "repetition": repetition, "presence": presence, "frequency": frequency}
    actual = penalized(jnp.asarray(logits), Penalties(**{name: jnp.asarray(field) for name, field in fields.items()}))
    assert_close(actual, wanted, "float32")


def test_logprobs_are_normalised_and_in_order():
    logits = np.random.default_rng(4).normal(0, 3, (5, 50)).astype(np.float32)
    tokens = np.array([0, 7, 49, 3, 3], np.int32)
    chosen, ids, values = logprobs(jnp.asarray(logits), jnp.asarray(tokens))
    normal = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    order = np.argsort(-normal, axis=-1)[:, :MAX_LOGPROBS]
    assert_close(chosen, normal[np.arange(5), tokens], "float32")
    np.testing.assert_array_equal(ids, order)
    assert_close(values, np.take_along_axis(normal, order, -1), "float32")


def test_logprobs_of_a_small_vocabulary_name_every_token():
    _, ids, _ = logprobs(jnp.zeros((2, 5)), jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3, 4]] * 2)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ([0.0, 1.0], True),
        ([-np.inf, 1.0], True),
        ([np.nan, 1.0], False),
        ([1.0, np.nan], False),
        ([np.inf, 1.0], False),
        ([-np.inf, -np.inf], False),
        ([np.nan, np.inf], False),
    ],
)
def test_only_a_row_with_a_finite_largest_and_no_nan_is_finite(row, wanted):
    assert bool(is_finite(jnp.asarray([row], jnp.float32))[0]) is wanted
