"""The reference ops against loops that follow one token at a time."""

import jax.numpy as jnp
import numpy as np

from pallas_kernels.cases import ATTENTION_CASES, LORA_CASES
from pallas_kernels.ops import REFERENCE
from tests.pallas_kernels import claims
from tests.tolerances import assert_close

OPS = claims.jitted(REFERENCE)


def looped_lora(x, a, b, work):
    """Item by item, token by token, in float64 but for the rounding of h."""
    out = np.zeros((len(x), b.shape[2]))
    for i in range(int(work.num_items)):
        for token in range(work.start[i], work.start[i] + work.count[i]):
            h = a[work.page[i]].astype(np.float64) @ x[token].astype(np.float64) * work.weight[i]
            out[token] += h.astype(x.dtype).astype(np.float64) @ b[work.page[i]].astype(np.float64)
    return out


def looped_attention(q, kv, work, window):
    """Token by token, head by head, over the positions the token sees."""
    out, page_tokens = np.zeros(q.shape), kv.shape[1]
    for token, kv_head, group in np.ndindex(q.shape[:3]):
        last = work.position[token]
        seen = range(0 if window is None else max(0, last - window + 1), last + 1)
        cells = [kv[work.table[work.row[token], at // page_tokens], at % page_tokens, :, kv_head] for at in seen]
        keys, values = np.array(cells, np.float64).transpose(1, 0, 2)
        scores = keys @ q[token, kv_head, group].astype(np.float64) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[token, kv_head, group] = weights @ values / weights.sum()
    return out


@claims.each_dtype
@claims.each_lora_case
def test_lora_is_the_sum_of_each_tokens_own_pages(case, dtype):
    x, pages, work = claims.lora_inputs(case, dtype)
    for (a, b), actual in zip(pages, OPS.lora(x, pages, work), strict=True):
        assert_close(actual, looped_lora(x, a, b, work), dtype)


@claims.each_dtype
@claims.each_attention_case
def test_attention_is_a_softmax_over_what_the_token_sees(case, dtype):
    q, kv, work = claims.attention_inputs(case, dtype)
    live = claims.num_live(case)
    wanted = looped_attention(q[:live], kv, work, case.window)
    assert_close(OPS.attention(q, kv, work, case.window)[:live], wanted, dtype)


@claims.each_adapter_case
def test_lora_of_the_cases_is_not_nearly_zero(case):
    assert 0.3 < np.abs(np.asarray(OPS.lora(*claims.lora_inputs(case, "float32"))[0])).max() < 20


def test_tokens_without_an_adapter_get_exact_zeros():
    case = next(case for case in LORA_CASES if case.name == "unaligned runs")
    update = np.asarray(OPS.lora(*claims.lora_inputs(case, "float32"))[0])
    assert not update[:3].any()
    assert not update[48:53].any()


@claims.each_lora_case
def test_unnamed_pages_are_never_read(case):
    claims.unnamed_pages_are_never_read(OPS.lora, case)


@claims.each_adapter_case
def test_a_broken_adapter_harms_its_own_tokens_only(case):
    claims.a_broken_adapter_harms_its_own_tokens_only(OPS.lora, case)


@claims.each_attention_case
def test_what_is_not_seen_is_never_read(case):
    claims.what_is_not_seen_is_never_read(OPS.attention, case)


def test_a_window_of_the_whole_context_changes_nothing():
    case = ATTENTION_CASES[0]
    q, kv, work = claims.attention_inputs(case, "float32")
    whole, windowed = OPS.attention(q, kv, work, None), OPS.attention(q, kv, work, 41)
    np.testing.assert_array_equal(whole, jnp.asarray(windowed))
