"""RMS norm and rotary embedding against formulas written out from their sources."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from lorajax.layers import rms_norm, rope_frequencies, rope_tables, rotate
from lorajax.spec import RopeSpec
from tests.tolerances import assert_close

LLAMA3 = RopeSpec(
    theta=500000.0, kind="llama3", factor=8.0, original_max_len=8192, low_freq_factor=1.0, high_freq_factor=4.0
)
YARN = RopeSpec(theta=1e6, kind="yarn", factor=4.0, original_max_len=32768)


def llama3_frequency(rope, pair, head_dim):
    """One frequency by wavelength, as Llama 3.1's own code puts it."""
    frequency = 1.0 / rope.theta ** (2 * pair / head_dim)
    wavelength = 2 * math.pi / frequency
    if wavelength < rope.original_max_len / rope.high_freq_factor:
        return frequency
    if wavelength > rope.original_max_len / rope.low_freq_factor:
        return frequency / rope.factor
    span = rope.high_freq_factor - rope.low_freq_factor
    smooth = (rope.original_max_len / wavelength - rope.low_freq_factor) / span
    return (1 - smooth) * frequency / rope.factor + smooth * frequency


def yarn_frequency(rope, pair, head_dim):
    """One frequency: kept up to the pair that turns beta_fast times, scaled from the one that turns beta_slow times."""

    def pair_of(turns):
        """Where original_max_len / wavelength = turns, solved for the pair."""
        return head_dim / 2 * math.log(rope.original_max_len / (2 * math.pi * turns), rope.theta)

    frequency = 1.0 / rope.theta ** (2 * pair / head_dim)
    low, high = math.floor(pair_of(rope.beta_fast)), math.ceil(pair_of(rope.beta_slow))
    if pair <= low:
        return frequency
    if pair >= high:
        return frequency / rope.factor
    scaled_part = (pair - low) / (high - low)
    return frequency * (1 - scaled_part) + frequency / rope.factor * scaled_part


@pytest.mark.parametrize("head_dim", [6, 64, 128])
def test_plain_rope_is_a_geometric_row(head_dim):
    frequencies, magnitude = rope_frequencies(RopeSpec(theta=10000.0), head_dim)
    np.testing.assert_allclose(frequencies, [10000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2)], rtol=1e-6)
    assert magnitude == 1.0


def test_linear_rope_divides_every_frequency():
    plain, _ = rope_frequencies(RopeSpec(theta=10000.0), 64)
    scaled, magnitude = rope_frequencies(RopeSpec(theta=10000.0, kind="linear", factor=4.0), 64)
    np.testing.assert_allclose(scaled, plain / 4, rtol=1e-6)
    assert magnitude == 1.0


@pytest.mark.parametrize("head_dim", [64, 128])
def test_llama3_rope_blends_by_wavelength(head_dim):
    frequencies, magnitude = rope_frequencies(LLAMA3, head_dim)
    wanted = [llama3_frequency(LLAMA3, pair, head_dim) for pair in range(head_dim // 2)]
    np.testing.assert_allclose(frequencies, wanted, rtol=1e-6)
    assert magnitude == 1.0


@pytest.mark.parametrize("head_dim", [64, 128])
def test_yarn_rope_blends_by_turns(head_dim):
    frequencies, _ = rope_frequencies(YARN, head_dim)
    wanted = [yarn_frequency(YARN, pair, head_dim) for pair in range(head_dim // 2)]
    np.testing.assert_allclose(frequencies, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("factor", "attention_factor", "magnitude"),
    [(4.0, None, 0.1 * math.log(4) + 1), (4.0, 1.25, 1.25), (1.0, None, 1.0)],
)
def test_yarn_magnitude_follows_the_factor_unless_given(factor, attention_factor, magnitude):
    rope = RopeSpec(theta=1e6, kind="yarn", factor=factor, original_max_len=4096, attention_factor=attention_factor)
    assert rope_frequencies(rope, 64)[1] == pytest.approx(magnitude)


def test_tables_are_cos_and_sin_of_each_position():
    positions = np.array([0, 1, 7, 500], np.int32)
    cos, sin = rope_tables(YARN, 64, jnp.asarray(positions))
    frequencies, magnitude = rope_frequencies(YARN, 64)
    angles = positions[:, None] * frequencies.astype(np.float64)
    np.testing.assert_allclose(cos, magnitude * np.cos(angles), atol=1e-4)
    np.testing.assert_allclose(sin, magnitude * np.sin(angles), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotate_turns_pairs_half_a_head_apart(dtype):
    x = np.random.default_rng(0).normal(size=(5, 2, 3, 8)).astype(jnp.dtype(dtype))
    angles = np.random.default_rng(1).uniform(0, 6, (5, 4))
    actual = rotate(jnp.asarray(x), jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32))
    wanted = np.zeros(x.shape)
    for token, head, group, pair in np.ndindex(5, 2, 3, 4):
        turned = complex(x[token, head, group, pair], x[token, head, group, pair + 4]) * np.exp(
            1j * angles[token, pair]
        )
        wanted[token, head, group, [pair, pair + 4]] = turned.real, turned.imag
    assert actual.dtype == jnp.dtype(dtype)
    assert_close(actual, wanted, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rms_norm_divides_by_the_root_mean_square(dtype):
    rng = np.random.default_rng(2)
    x, weight = (100 * rng.normal(size=(7, 48))).astype(jnp.dtype(dtype)), rng.normal(size=48).astype(jnp.dtype(dtype))
    actual = rms_norm(jnp.asarray(x), jnp.asarray(weight), 1e-5)
    wide = x.astype(np.float64)
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight.astype(np.float64)
    assert actual.dtype == jnp.dtype(dtype)
    assert_close(actual, wanted, dtype)


def test_rms_norm_of_zeros_is_zeros():
    assert not rms_norm(jnp.zeros((2, 8)), jnp.ones(8), 1e-6).any()


def test_arrays_that_contradict_an_annotation_are_refused_in_tests():
    with pytest.raises(TypeCheckError, match="weight"):
        rms_norm(jnp.ones((2, 8)), jnp.ones(7), 1e-6)
