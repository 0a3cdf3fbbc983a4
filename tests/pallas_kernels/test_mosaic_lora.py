"""Grouped LoRA for Hopper GPUs, interpreted: the reference's numbers, nobody else's pages, and no data races."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.cases import LORA_CASES, LoraCase, lora_arrays
from pallas_kernels.mosaic_lora import adapted, grouped_lora
from pallas_kernels.mosaic_parts import Tuning
from pallas_kernels.ops import REFERENCE
from pallas_kernels.tiles import tiled
from tests.pallas_kernels import claims
from tests.pallas_kernels.interpreted import without_races
from tests.tolerances import assert_close

REFERENCE_LORA = claims.jitted(REFERENCE).lora
SMALL = Tuning(splits=1, in_block=64, out_block=64, in_launch=3, out_launch=2, overlaps=False)
SPLIT = Tuning(splits=2, in_block=64, out_block=64, in_launch=5, out_launch=3, overlaps=False)
FUSED = Tuning(splits=2, in_block=64, out_block=64, repeats=2, in_launch=2, out_launch=2, is_fused=True, overlaps=False)
MIXED = next(case for case in LORA_CASES if case.name == "unaligned runs")
SKEWED = next(case for case in LORA_CASES if case.name == "31 of rank 8, one of rank 128")
SETS = next(case for case in LORA_CASES if case.name == "mixtures")
LONG_SET = LoraCase(
    name="a set of more tiles than there are slots",
    ranks=(128, 128),
    runs=((9, ((0, 1.0), (1, -0.5))), (3, ((1, 1.0),))),
    num_tokens=32,
)


# Compiling takes longer than running.
@functools.partial(jax.jit, static_argnums=3, compiler_options={"xla_backend_optimization_level": "0"})
def kernels(x, pages, work, how):
    return grouped_lora(x, pages, work, lambda *_: how)


def interpreted(how):
    """The op as claims call it: widths become multiples of 64, and float32 is rounded, which keeps its NaN."""

    def lora(x, pages, work):
        work = tiled(work, len(x), len(pages[0][0]))
        dtype = jnp.bfloat16 if x.dtype == np.float32 else x.dtype
        wide = lambda m: np.pad(m, [(0, 0)] * (m.ndim - 1) + [(0, -m.shape[-1] % 64)]).astype(dtype)
        padded = tuple((wide(a), wide(b)) for a, b in pages)
        updates = without_races(lambda: kernels(wide(x), padded, work, how))
        return tuple(np.asarray(out)[:, : b.shape[2]] for out, (_, b) in zip(updates, pages, strict=True))

    return lora


def arrays(case, dtype, *widths):
    """(x, pages of each target, work) with these (in, out) widths."""
    each = [lora_arrays(case, pair, jnp.dtype(dtype), seed=3) for pair in widths]
    return each[0].x, tuple((one.a, one.b) for one in each), each[0].work


@claims.each_lora_case
def test_agrees_with_the_reference(case):
    claims.lora_agrees(interpreted(SMALL), case, "bfloat16")


def test_agrees_with_the_reference_in_float16():
    claims.lora_agrees(interpreted(SMALL), MIXED, "float16")


@pytest.mark.parametrize(
    ("case", "how"), [(SETS, SPLIT), (LONG_SET, FUSED)], ids=lambda value: getattr(value, "name", "")
)
def test_agrees_however_the_work_is_cut(case, how):
    x, pages, work = arrays(case, "bfloat16", (512, 256), (512, 128))
    wanted = REFERENCE_LORA(x, pages, work)
    for actual, right in zip(interpreted(how)(x, pages, work), wanted, strict=True):
        assert_close(actual, right, "bfloat16")


@functools.partial(jax.jit, static_argnums=4, compiler_options={"xla_backend_optimization_level": "0"})
def products(x, kernel, pages, work, how):
    return adapted(None, x, kernel, pages, work, lambda *_: how)


@pytest.mark.parametrize(("how", "groups"), [(SMALL, ()), (FUSED, (2,))], ids=["whole targets", "in two groups"])
def test_updates_are_added_where_the_kernels_columns_lie(how, groups):
    x, pages, work = arrays(MIXED, "bfloat16", (128, 256), (128, 128), (128, 128))
    kernel = np.random.default_rng(0).normal(size=(128, *groups, 512 // (64 * (groups or (1,))[0]), 64)).astype(x.dtype)
    wanted = jax.jit(functools.partial(REFERENCE.adapted, REFERENCE))(x, kernel, pages, work)
    prepared = tiled(work, len(x), len(pages[0][0]))
    actual = without_races(lambda: products(x, kernel, pages, prepared, how))
    assert actual.dtype == x.dtype
    assert_close(actual, wanted, "bfloat16")


def test_groups_that_cut_a_block_of_columns_are_refused():
    x, pages, work = arrays(MIXED, "bfloat16", (64, 64))
    with pytest.raises(NotImplementedError, match=r"got 2 parts of \(64,\) columns, wanted parts of a multiple of 64"):
        adapted(None, x, np.zeros((64, 2, 1, 32), x.dtype), pages, tiled(work, len(x), len(pages[0][0])))


def test_column_shards_are_the_columns_of_the_whole():
    x, ((a, b),), work = arrays(SKEWED, "bfloat16", (64, 128))
    lora = interpreted(SMALL)
    (whole,) = lora(x, ((a, b),), work)
    shards = [lora(x, ((a, b[..., columns]),), work)[0] for columns in (np.s_[:64], np.s_[64:])]
    np.testing.assert_array_equal(np.concatenate(shards, axis=1), whole)


def test_row_shards_sum_to_the_whole():
    x, ((a, b),), work = arrays(SKEWED, "bfloat16", (128, 64))
    lora = interpreted(SMALL)
    shards = [lora(x[:, columns], ((a[..., columns], b),), work)[0] for columns in (np.s_[:64], np.s_[64:])]
    assert_close(sum(shards), lora(x, ((a, b),), work)[0], "bfloat16")


def test_a_later_layer_reads_its_own_pages():
    x, ((a, b),), work = arrays(MIXED, "bfloat16", (64, 64))
    empty_layer = [np.full_like(m, np.nan) for m in (a, b)]
    pages = (tuple(np.concatenate(pair) for pair in zip(empty_layer, (a, b), strict=True)),)
    prepared = tiled(work, len(x), len(a))
    (actual,) = without_races(lambda: kernels(x, pages, prepared.shifted(len(a)), SMALL))
    assert_close(actual, REFERENCE_LORA(x, ((a, b),), work)[0], "bfloat16")


@pytest.mark.parametrize("case", [MIXED, SETS], ids=lambda case: case.name)
def test_unnamed_pages_are_never_read(case):
    claims.unnamed_pages_are_never_read(interpreted(SMALL), case)


@pytest.mark.parametrize("case", [MIXED, SETS], ids=lambda case: case.name)
def test_a_broken_token_harms_itself_only(case):
    claims.a_broken_token_harms_itself_only(interpreted(SMALL), case)


def test_a_run_does_not_feel_the_others():
    together, alone = claims.run_alone(interpreted(SMALL), MIXED, 3, "bfloat16")
    assert_close(together, alone, "bfloat16")


def test_tokens_without_an_adapter_get_exact_zeros():
    update = interpreted(SMALL)(*claims.lora_inputs(MIXED, "bfloat16"))[0]
    assert not update[:3].any()
    assert not update[48:53].any()


@pytest.mark.parametrize(
    ("dtype", "widths", "is_tiled", "message"),
    [
        ("float32", (64, 64), True, "got float32, wanted bfloat16 or float16"),
        ("bfloat16", (40, 64), True, r"got widths \[40, 64\], wanted multiples of 64"),
        ("bfloat16", (64, 72), True, r"got widths \[64, 72\], wanted multiples of 64"),
        ("bfloat16", (64, 64), False, "without tiles"),
    ],
)
def test_what_it_cannot_take_is_said(dtype, widths, is_tiled, message):
    x, pages, work = arrays(MIXED, dtype, widths)
    with pytest.raises(NotImplementedError, match=message):
        grouped_lora(x, pages, tiled(work, len(x), len(pages[0][0])) if is_tiled else work)
