"""Logits to token ids. Owns: penalties, filters, seeded draws, log probabilities. Does not: keep state between steps.

A draw depends on the request's seed and on how many tokens it has generated, never on its neighbours or on when it ran,
so a preempted request goes on exactly where it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MAX_LOGPROBS = 20
"""Alternatives reported at most."""


_SPAN = 128


# JAX rebuilds records with leaves that are not arrays, so their fields are not checked.
@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingArrays:
    """The sampling parameters of the sequences of a step, one row each."""

    temperature: jax.Array  # [sequence] float32, 0 = greedy
    top_p: jax.Array  # [sequence] float32, 1 = off
    top_k: jax.Array  # [sequence] int32, 0 = off
    min_p: jax.Array  # [sequence] float32, 0 = off
    seed: jax.Array  # [sequence, 2] uint32
    num_output: jax.Array  # [sequence] int32, tokens generated so far


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Penalties:
    """What earlier tokens do to the logits of a step, one row per sequence."""

    seen: jax.Array  # [sequence, vocab] bool, in the prompt or generated
    counts: jax.Array  # [sequence, vocab] int32, times generated
    repetition: jax.Array  # [sequence] float32, 1 = off
    presence: jax.Array  # [sequence] float32, 0 = off
    frequency: jax.Array  # [sequence] float32, 0 = off


def penalized(logits: Float[Array, "sequence vocab"], penalties: Penalties) -> Float[Array, "sequence vocab"]:
    """Logits with repetition (prompt and output), presence and frequency (output only) penalties applied.

    Source: Keskar et al. 2019 (arXiv 1909.05858) for repetition; the OpenAI API for the other two.
    """
    repetition = penalties.repetition[:, None]
    divided = jnp.where(logits > 0, logits / repetition, logits * repetition)
    logits = jnp.where(penalties.seen, divided, logits)
    counts = penalties.counts.astype(jnp.float32)
    return logits - penalties.frequency[:, None] * counts - penalties.presence[:, None] * jnp.minimum(counts, 1.0)


def sampled(logits: Float[Array, "sequence vocab"], sampling: SamplingArrays) -> Int[Array, " sequence"]:
    """One token per sequence: the most likely where temperature is 0, else a seeded draw from what the filters keep.

    Order: temperature, then top-k, then top-p over what top-k left, then min-p, as in vLLM.
    """
    greedy = sampling.temperature == 0
    below_top = logits - jnp.max(logits, axis=-1, keepdims=True)  # so that no temperature is too small to divide by
    scaled = below_top / jnp.where(greedy, 1.0, sampling.temperature)[:, None]
    kept = _top_p(_top_k(scaled, sampling.top_k), sampling.top_p)
    floor = jnp.max(kept, axis=-1) + jnp.log(sampling.min_p)
    kept = jnp.where(kept >= floor[:, None], kept, -jnp.inf)
    keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(sampling.seed), sampling.num_output)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32))(keys)
    return jnp.where(greedy, most_likely(logits), most_likely(kept + noise))


def logprobs(
    logits: Float[Array, "sequence vocab"], tokens: Int[Array, " sequence"]
) -> tuple[Float[Array, " sequence"], Int[Array, "sequence top"], Float[Array, "sequence top"]]:
    """(log probability of each chosen token, ids of the MAX_LOGPROBS most likely, their log probabilities)."""
    normal = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(normal, tokens[:, None], axis=-1)[:, 0]
    values, ids = jax.lax.top_k(normal, min(MAX_LOGPROBS, logits.shape[1]))
    return chosen, ids, values


def _top_k(logits: jax.Array, top_k: jax.Array) -> jax.Array:
    """Only the `top_k` largest of each row (ties with the last stay), -inf elsewhere; 0 keeps all."""
    wanted = jnp.where(top_k > 0, jnp.minimum(top_k, logits.shape[1]), logits.shape[1])[:, None]

    def filtered(logits: jax.Array) -> jax.Array:
        keys = _ordered(logits)
        floor = _largest_floor(lambda floor: jnp.sum(keys >= floor, axis=-1, keepdims=True) >= wanted, len(logits))
        return jnp.where(keys >= floor, logits, -jnp.inf)

    return jax.lax.cond(jnp.any(top_k > 0), filtered, lambda logits: logits, logits)


def _top_p(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """Only the smallest set of most likely tokens whose probability reaches `top_p` (ties stay), -inf elsewhere."""

    def filtered(logits: jax.Array) -> jax.Array:
        keys, probability = _ordered(logits), jax.nn.softmax(logits, axis=-1)
        wanted = jnp.where(top_p < 1, top_p, 0.0)[:, None]  # 0 asks for nothing, so the floor is not used

        def reaches(floor: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(keys >= floor, probability, 0.0), axis=-1, keepdims=True) >= wanted

        floor = _largest_floor(reaches, len(logits))
        return jnp.where((keys >= floor) | (top_p >= 1)[:, None], logits, -jnp.inf)

    return jax.lax.cond(jnp.any(top_p < 1), filtered, lambda logits: logits, logits)


def _ordered(x: jax.Array) -> jax.Array:
    """float32 to uint32 in the same order, so that a threshold can be searched bit by bit."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest_floor(holds: Callable[[jax.Array], jax.Array], num_rows: int) -> jax.Array:
    """The largest uint32 floor[row, 1] for which `holds(floor)`, true at 0 and monotone: 32 counts, no sort."""

    def one_bit(i: jax.Array, floor: jax.Array) -> jax.Array:
        raised = floor | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(holds(raised), raised, floor)

    return jax.lax.fori_loop(0, 32, one_bit, jnp.zeros((num_rows, 1), jnp.uint32))


def is_finite(logits: Float[Array, "sequence vocab"]) -> Bool[Array, " sequence"]:
    """Whether a row can be sampled from: its largest value is finite, and so none is NaN."""
    return jnp.isfinite(jnp.max(logits, axis=-1))


def most_likely(logits: Float[Array, "sequence vocab"]) -> Int[Array, " sequence"]:
    """The first of the largest logits of each row, as argmax; in two levels, a tenth of its time on XLA-CPU."""
    rows, vocab = logits.shape
    padded = jnp.pad(logits, ((0, 0), (0, -vocab % _SPAN)), constant_values=-jnp.inf).reshape(rows, -1, _SPAN)
    span = jnp.argmax(jnp.max(padded, axis=-1), axis=-1)
    best = jnp.take_along_axis(padded, span[:, None, None], axis=1)[:, 0]
    return (span * _SPAN + jnp.argmax(best, axis=-1)).astype(jnp.int32)
