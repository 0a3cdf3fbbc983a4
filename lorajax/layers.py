"""RMS norm and rotary embedding as functions of arrays. Owns: their maths. Does not: hold weights or caches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lorajax.spec import RopeSpec


def rms_norm(x: Float[Array, "... width"], weight: Float[Array, " width"], eps: float) -> Float[Array, "... width"]:
    """Root-mean-square norm over the last axis; computed in float32, returned in x.dtype.

    Source: Zhang & Sennrich 2019 (arXiv 1910.07467).
    """
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * scale).astype(x.dtype) * jnp.broadcast_to(weight.astype(x.dtype), x.shape)


def rope_frequencies(rope: RopeSpec, head_dim: int) -> tuple[np.ndarray, float]:
    """Inverse frequencies [head_dim / 2] in float32 and the factor for cos and sin.

    Source: RoPE scaling as published with Llama 3.1 ("llama3") and in Peng et al. 2023, arXiv 2309.00071 ("yarn").
    """
    plain = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    match rope.kind:
        case "linear":
            return (plain / rope.factor).astype(np.float32), 1.0
        case "llama3":
            return _llama3(rope, plain).astype(np.float32), 1.0
        case "yarn":
            factor = rope.attention_factor
            magnitude = 0.1 * math.log(rope.factor) + 1.0 if factor is None and rope.factor > 1 else factor or 1.0
            return _yarn(rope, plain, head_dim).astype(np.float32), magnitude
        case _:
            return plain.astype(np.float32), 1.0


def _llama3(rope: RopeSpec, plain: np.ndarray) -> np.ndarray:
    turns = rope.original_max_len * plain / (2 * math.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return blend * plain + (1 - blend) * plain / rope.factor


def _yarn(rope: RopeSpec, plain: np.ndarray, head_dim: int) -> np.ndarray:
    def dimension(turns: float) -> float:
        """Pair index whose wave makes `turns` turns over the original context."""
        return head_dim * math.log(rope.original_max_len / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension(rope.beta_fast)), 0)
    high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return (1 - ramp) * plain + ramp * plain / rope.factor


def rope_tables(
    rope: RopeSpec, head_dim: int, positions: Int[Array, " token"]
) -> tuple[Float[Array, "token half"], Float[Array, "token half"]]:
    """Return cos and sin of every token's position, float32; one pair serves all layers of a step."""
    frequencies, magnitude = rope_frequencies(rope, head_dim)
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(frequencies)[None, :]
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def rotate(
    x: Float[Array, "token kv_head group head_dim"], cos: Float[Array, "token half"], sin: Float[Array, "token half"]
) -> Float[Array, "token kv_head group head_dim"]:
    """Rotary embedding in half-split order (Hugging Face's); computed in float32, returned in x.dtype."""
    half = x.shape[-1] // 2
    wide = x.astype(jnp.float32)
    first, second = wide[..., :half], wide[..., half:]
    cos, sin = cos[:, None, None, :], sin[:, None, None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
