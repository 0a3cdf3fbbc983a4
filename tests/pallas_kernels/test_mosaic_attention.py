"""Ragged paged attention for GPUs, interpreted: the reference's numbers, nobody else's pages, and no data races.

The interpreter has no wgmma with an operand in registers, so a plain product stands in for that one instruction; what
the instruction compiles to is in test_mosaic_attention_lowering.py and test_mosaic_attention_aot.py.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.cases import AttentionCase
from pallas_kernels.mosaic_attention import Tuning, attend, paged_attention
from tests.pallas_kernels import claims
from tests.pallas_kernels.interpreted import without_races

SIZES = {"num_tokens": 72, "num_sequences": 4, "num_tiles": 2, "num_pages": 20, "max_model_len": 256}
Case = functools.partial(AttentionCase, **SIZES, kv_heads=1, group=4, head_dim=64, page_tokens=32)
SMALL_RINGS = Tuning(decode_ring_bytes=1, tile_ring_bytes=1)
"""Two blocks of keys each, so that short contexts go round them."""
WHOLE, SPLIT = replace(SMALL_RINGS, num_parts=1), replace(SMALL_RINGS, split_tokens=128)

DECODE = Case(name="decode only", sequences=((0, 1), (62, 1), (63, 1), (200, 1)))
MIXTURE = Case(name="prompt chunks and decoding", sequences=((60, 1), (0, 40), (7, 2), (40, 1)))
LONG = Case(name="contexts longer than a split", sequences=((200, 1), (126, 1), (127, 1), (110, 30)))
WINDOW = replace(LONG, name="contexts longer than a window", window=70)
ONES = Case(name="1 head on 1, of 64, pages of 64", sequences=((70, 1), (3, 40)), group=1, page_tokens=64)
THREES = Case(
    name="9 heads on 3, of 64, pages of 16", sequences=((77, 1), (30, 9)), group=3, page_tokens=16, num_tiles=1
)
EIGHTS = Case(name="8 heads on 1, of 128, pages of 128", sequences=((130, 1), (3, 5)), group=8, page_tokens=128)
CASES = (
    (replace(DECODE, num_tiles=0), WHOLE, "bfloat16"),
    (Case(name="one long chunk", sequences=((160, 70),)), WHOLE, "bfloat16"),
    (MIXTURE, WHOLE, "bfloat16"),
    (Case(name="mostly padding", sequences=((30, 1),)), WHOLE, "bfloat16"),
    (LONG, SPLIT, "bfloat16"),
    (WINDOW, SPLIT, "bfloat16"),
    (ONES, WHOLE, "float16"),
    (replace(THREES, kv_heads=3), WHOLE, "bfloat16"),
    (replace(EIGHTS, head_dim=128), WHOLE, "bfloat16"),
    (Case(name="one token", sequences=((0, 1),), num_tokens=1, num_sequences=1, num_tiles=0), SPLIT, "bfloat16"),
)
each_case = pytest.mark.parametrize(("case", "tuning", "dtype"), CASES, ids=lambda value: getattr(value, "name", ""))


def product(total, a, b):
    b = b[...]
    plgpu.commit_smem()  # TMA may overwrite what wgmma has read, but not what a thread has
    return total + jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32))


# Compiling takes longer than running.
@functools.partial(jax.jit, static_argnums=(3, 4), compiler_options={"xla_backend_optimization_level": "0"})
def kernel(q, kv, work, window, tuning):
    return attend(q, kv, work, window, tuning, product)


def interpreted(tuning):
    """The op as claims call it; float32 inputs are rounded, which keeps their NaN."""

    def attention(q, kv, work, window):
        q, kv = (jnp.asarray(x, jnp.bfloat16 if x.dtype == jnp.float32 else x.dtype) for x in (q, kv))
        work = jax.tree.map(jnp.asarray, work)
        return np.asarray(without_races(lambda: kernel(q, kv, work, window, tuning)))

    return attention


@each_case
def test_agrees_with_the_reference(case, tuning, dtype):
    claims.attention_agrees(interpreted(tuning), case, dtype)


def test_what_is_not_seen_is_never_read():
    claims.what_is_not_seen_is_never_read(interpreted(SPLIT), WINDOW)


def test_a_broken_sequence_harms_itself_only():
    claims.a_broken_sequence_harms_itself_only(interpreted(WHOLE), MIXTURE)


@pytest.mark.parametrize(("case", "tuning"), [(replace(DECODE, num_tiles=0), WHOLE), (LONG, SPLIT)])
def test_a_sequence_gets_the_same_bits_alone(case, tuning):
    together, alone = claims.sequence_alone(interpreted(tuning), case, 3, "bfloat16")
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("case", "dtype", "got"),
    [
        (MIXTURE, "float32", "got float32; it takes bfloat16 or float16"),
        (replace(MIXTURE, head_dim=80), "bfloat16", "got heads of 80; it takes 64 or 128"),
        (replace(MIXTURE, page_tokens=5, num_pages=60), "bfloat16", "got pages of 5 tokens"),
        (replace(MIXTURE, group=65), "bfloat16", "got 65 query heads for each key/value head; it takes at most 64"),
    ],
)
def test_what_it_cannot_take_is_refused(case, dtype, got):
    with pytest.raises(NotImplementedError, match=got):
        paged_attention(*claims.attention_inputs(case, dtype), case.window)
