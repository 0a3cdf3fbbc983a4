"""What every implementation of the ops must hold, as functions of the op. Owns: inputs, slow loops and the checks.

An op is the jitted function: `lora(x, pages, work)` or `attention(q, kv, work, window)` as in `pallas_kernels/ops.py`.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.cases import ATTENTION_CASES, LORA_CASES, attention_arrays, lora_arrays
from pallas_kernels.ops import REFERENCE, Ops
from pallas_kernels.work import TILE_TOKENS
from tests.tolerances import assert_close

DTYPES = ("float32", "bfloat16", "float16")
WIDTHS = ((40, 72), (40, 24))
"""Two targets that share their input; neither output is whole vectors or tiles."""

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_lora_case = pytest.mark.parametrize("case", LORA_CASES, ids=lambda case: case.name)
each_adapter_case = pytest.mark.parametrize(
    "case", [case for case in LORA_CASES if any(adapters for _, adapters in case.runs)], ids=lambda case: case.name
)
each_attention_case = pytest.mark.parametrize("case", ATTENTION_CASES, ids=lambda case: case.name)


def jitted(ops):
    return Ops(ops.name, jax.jit(ops.lora), jax.jit(ops.attention, static_argnums=3))


@functools.cache
def lora_inputs(case, dtype):
    """(x, pages of both targets, work); one seed gives both the same work."""
    both = [lora_arrays(case, widths, jnp.dtype(dtype), seed=3) for widths in WIDTHS]
    return both[0].x, tuple((arrays.a, arrays.b) for arrays in both), both[0].work


@functools.cache
def attention_inputs(case, dtype):
    arrays = attention_arrays(case, jnp.dtype(dtype), seed=5)
    return arrays.q, arrays.kv, arrays.work


_reference = jitted(REFERENCE)
_reference_lora = functools.cache(lambda case, dtype: _reference.lora(*lora_inputs(case, dtype)))
_reference_attention = functools.cache(
    lambda case, dtype: _reference.attention(*attention_inputs(case, dtype), case.window)
)


def num_live(case):
    """Tokens of an attention case that are no padding."""
    return sum(count for _, count in case.sequences)


def spans(case):
    """(first token, tokens) of each sequence of an attention case."""
    counts = [count for _, count in case.sequences]
    return list(zip(np.cumsum([0, *counts[:-1]]).tolist(), counts, strict=True))


def lora_agrees(lora, case, dtype):
    """The same update as the reference, for every token and target."""
    for actual, wanted in zip(lora(*lora_inputs(case, dtype)), _reference_lora(case, dtype), strict=True):
        assert actual.dtype == jnp.float32
        assert_close(actual, wanted, dtype)


def attention_agrees(attention, case, dtype):
    """The same result as the reference, for every token that is no padding."""
    actual, live = attention(*attention_inputs(case, dtype), case.window), num_live(case)
    assert actual.dtype == jnp.dtype(dtype)
    assert_close(actual[:live], _reference_attention(case, dtype)[:live], dtype)


def unnamed_pages_are_never_read(lora, case):
    """NaN in page 0 and in pages of no item changes nothing."""
    x, pages, work = lora_inputs(case, "float32")
    named = np.unique(work.page[: work.num_items])
    poisoned = tuple(tuple(_poisoned(m, ~np.isin(np.arange(len(m)), named)) for m in pair) for pair in pages)
    for actual, wanted in zip(lora(x, poisoned, work), lora(x, pages, work), strict=True):
        np.testing.assert_array_equal(actual, wanted)


def a_broken_adapter_harms_its_own_tokens_only(lora, case):
    """NaN in the pages of the middle item reaches the tokens of runs that name its page, and no others."""
    x, pages, work = lora_inputs(case, "float32")
    broken = work.page[work.num_items // 2]
    poisoned = tuple(tuple(_poisoned(m, np.arange(len(m)) == broken) for m in pair) for pair in pages)
    its_own = np.zeros(len(x), bool)
    for page, start, count in zip(work.page, work.start, work.count, strict=True):
        its_own[start : start + count] |= page == broken
    for actual, wanted in zip(lora(x, poisoned, work), lora(x, pages, work), strict=True):
        assert np.isnan(actual[its_own]).all()
        np.testing.assert_array_equal(actual[~its_own], wanted[~its_own])


def a_broken_token_harms_itself_only(lora, case):
    """NaN in one token's input reaches no other token."""
    x, pages, work = lora_inputs(case, "float32")
    broken = np.arange(len(x)) == len(x) // 3
    actual, wanted = lora(_poisoned(x, broken), pages, work)[0], lora(x, pages, work)[0]
    np.testing.assert_array_equal(actual[~broken], wanted[~broken])


def run_alone(lora, case, index, dtype):
    """Outputs of one run of a case (first target): in its batch, and first in a batch of nobody else."""
    return alone_of(lora, lora_inputs(case, dtype), case, index)


def alone_of(lora, inputs, case, index):
    """The same, of these inputs."""
    x, pages, work = inputs
    start = sum(count for count, _ in case.runs[:index])
    count = case.runs[index][0]
    mine = (work.start == start) & (work.count == count) & (np.arange(len(work.page)) < work.num_items)
    order = np.argsort(~mine, kind="stable")  # its items first
    only = replace(
        work,
        page=work.page[order],
        start=np.zeros_like(work.start),
        count=work.count[order],
        weight=work.weight[order],
        num_items=np.int32(mine.sum()),
    )
    together, alone = lora(x, pages, work)[0], lora(np.roll(x, -start, 0), pages, only)[0]
    return together[start : start + count], alone[:count]


def what_is_not_seen_is_never_read(attention, case):
    """NaN in page 0, in pages of nobody, past each context's end and before each window changes nothing."""
    q, kv, work = attention_inputs(case, "float32")
    poisoned = np.full_like(kv, np.nan)
    for row, (cached, count) in enumerate(case.sequences):
        oldest = 0 if case.window is None else max(0, cached - case.window + 1)
        for at in range(oldest, cached + count):
            page, slot = work.table[row, at // case.page_tokens], at % case.page_tokens
            poisoned[page, slot] = kv[page, slot]
    live = num_live(case)
    wanted = attention(q, kv, work, case.window)[:live]
    np.testing.assert_array_equal(attention(q, poisoned, work, case.window)[:live], wanted)


def a_broken_sequence_harms_itself_only(attention, case):
    """NaN in all pages and queries of the longest sequence reaches no other."""
    q, kv, work = attention_inputs(case, "float32")
    longest = int(np.argmax([cached for cached, _ in case.sequences]))
    first, count = spans(case)[longest]
    its_own = (np.arange(len(q)) >= first) & (np.arange(len(q)) < first + count)
    others = ~its_own & (np.arange(len(q)) < num_live(case))
    broken_pages = np.isin(np.arange(len(kv)), work.table[longest])
    actual = attention(_poisoned(q, its_own), _poisoned(kv, broken_pages), work, case.window)
    np.testing.assert_array_equal(actual[others], attention(q, kv, work, case.window)[others])
    assert np.isnan(actual[its_own]).all()


def sequence_alone(attention, case, index, dtype):
    """Outputs of one sequence of a case: in its batch, and first in a batch of nobody else."""
    q, kv, work = attention_inputs(case, dtype)
    first, count = spans(case)[index]
    num_tiles = -(-count // TILE_TOKENS) if count > 1 else 0
    tile_token = TILE_TOKENS * np.arange(len(work.tile_token), dtype=np.int32)
    only = replace(
        work,
        row=np.zeros_like(work.row),
        position=np.where(np.arange(len(q)) < count, np.roll(work.position, -first), 0),
        table=np.roll(work.table, -index, 0) * (np.arange(len(work.table)) == 0)[:, None].astype(np.int32),
        decode_token=np.zeros_like(work.decode_token),
        num_decode=np.int32(count == 1),
        tile_token=tile_token,
        tile_count=np.clip(count - tile_token, 0, TILE_TOKENS),
        num_tiles=np.int32(num_tiles),
    )
    together = attention(q, kv, work, case.window)
    return together[first : first + count], attention(np.roll(q, -first, 0), kv, only, case.window)[:count]


def _poisoned(array, where):
    out = array.copy()
    out[where] = np.nan
    return out
