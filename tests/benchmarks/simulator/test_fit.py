"""Least squares finds again what steps were made of."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulator.device import Shapes, StepModel, StepWork, attended_pairs
from benchmarks.simulator.fit import Step, fitted

TRUE = StepModel(
    base=Shapes(decode=((8, 1e-3), (16, 1.5e-3)), mixed=((40, 4e-3),)),
    context_s=1e-6,
    adapters_s=2e-4,
    adapter_token_s=3e-6,
    row_s=5e-6,
    prefill_row_s=2e-7,
    decode_row_s=4e-7,
    attended_s=3e-8,
    sequence_s=1e-4,
)
WRITE_S = 3e-4


def steps(num_steps=400, noise=0.0, seed=0):
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(num_steps):
        decode, prefill = int(chance.integers(1, 17)), int(chance.integers(0, 2) * chance.integers(1, 20))
        ranks = tuple(chance.choice([8, 16, 64, 128], chance.integers(0, 4)).tolist())
        work = StepWork(
            prefill_tokens=prefill,
            decode_sequences=decode,
            context_tokens=int(chance.integers(10, 2000)),
            attended_pairs=attended_pairs(int(chance.integers(0, 2000)), prefill),
            prefill_by_rank={ranks[0]: prefill} if ranks and prefill else {0: prefill},
            decode_by_rank={ranks[-1]: decode} if ranks else {0: decode},
            adapter_ranks=ranks,
        )
        num_writes = int(chance.integers(0, 3))
        seconds = (TRUE.step_s(work) + num_writes * WRITE_S) * float(np.exp(noise * chance.standard_normal()))
        shape = 40 if prefill else 8 if decode <= 8 else 16
        found.append(Step(work=work, shape_tokens=shape, num_writes=num_writes, seconds=seconds))
    return found


def costs(model):
    shapes = [seconds for _, seconds in (*model.base.decode, *model.base.mixed)]
    parts = (model.context_s, model.attended_s, model.sequence_s, model.adapters_s, model.row_s)
    return [*shapes, *parts, model.prefill_row_s, model.decode_row_s]


def test_exact_times_give_the_exact_model():
    fit = fitted(steps())
    assert costs(fit.step) == pytest.approx(costs(TRUE), rel=1e-6)
    assert fit.write_s == pytest.approx(WRITE_S)
    assert (fit.median_error, fit.total_error) == pytest.approx((0, 0), abs=1e-9)


def test_jitter_is_what_steps_took_one_after_the_other():
    calm, noisy = (np.array(fitted(steps(2000, noise=noise)).jitter) for noise in (0.0, 0.2))
    np.testing.assert_allclose(calm, 1.0, rtol=1e-6)
    assert noisy.mean() == pytest.approx(1.0)
    assert noisy.std() == pytest.approx(0.2, rel=0.15)
    chance = np.array([one.seconds for one in steps(2000, noise=0.2)]) / [one.seconds for one in steps(2000)]
    assert np.corrcoef(noisy, chance)[0, 1] > 0.9


def test_noise_leaves_the_total_right():
    fit = fitted(steps(2000, noise=0.2))
    assert fit.total_error == pytest.approx(0, abs=0.01)
    assert 0.05 < fit.median_error < 0.25


def test_a_few_steps_that_hang_change_nothing():
    some = steps()
    hung = [replace(step, seconds=50.0) if number % 40 == 0 else step for number, step in enumerate(some)]
    assert costs(fitted(hung).step) == pytest.approx(costs(TRUE), rel=1e-6)


def test_a_shape_that_is_rare_goes_by_the_next():
    some = [step for step in steps() if step.shape_tokens != 8][:200]
    rare = [step for step in steps(20) if step.shape_tokens == 8][:3]
    assert [tokens for tokens, _ in fitted(some + rare).step.base.decode] == [16]


def test_too_few_steps_are_told():
    with pytest.raises(ValueError, match=r"^fewer than 8 steps that only decode were measured .+; measure for longer$"):
        fitted(steps(6))
