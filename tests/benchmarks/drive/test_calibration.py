"""Step records of real hosts, as the steps that a model is fitted to."""

import math

import pytest

from benchmarks.drive.calibration import rows, steps_of, ways_s
from benchmarks.drive.open_loop import Sent
from benchmarks.drive.records import Ending
from benchmarks.outcomes.records import Outcome
from cluster.step_log import LoggedChunk, LoggedStep
from lorajax.config import EngineConfig
from lorajax.limits import EngineLimits

ENGINE = EngineConfig(
    kv_bytes=1,
    adapter_bytes=1,
    host_adapter_bytes=1,
    max_batch_tokens=256,
    interleaved_tokens=32,
    max_sequences=8,
)
LIMITS = EngineLimits(config=ENGINE, num_kv_pages=100, num_adapter_pages=10, max_model_len=4096)
RANKS = {"aa": 8, "bb": 64}


def chunk(request, start, num_tokens, adapters=""):
    return LoggedChunk(request, start, num_tokens, adapters, 0)


def step(began_s, *chunks, num_writes=0):
    return LoggedStep(began_s, began_s + 0.001, num_writes, chunks)


def test_a_step_lasts_until_the_next_one_of_a_request_begins():
    log = [step(1.0, chunk("r", 0, 5)), step(1.25, chunk("r", 5, 1)), step(1.75, chunk("r", 6, 1))]
    assert [one.seconds for one in steps_of(log, LIMITS, RANKS)] == [0.25, 0.5]


def test_a_step_after_which_the_engine_may_have_waited_does_not_count():
    log = [step(1.0, chunk("r", 0, 5)), step(1.2, chunk("s", 0, 5)), step(1.3, chunk("s", 5, 1))]
    assert [one.seconds for one in steps_of(log, LIMITS, RANKS)] == [1.3 - 1.2]


def test_what_it_computed_is_counted_by_rank():
    log = [
        step(1.0, chunk("r", 0, 100, "aa"), chunk("s", 30, 1, "bb"), chunk("t", 7, 1), num_writes=2),
        step(1.1, chunk("r", 100, 1, "aa")),
    ]
    (found,) = steps_of(log, LIMITS, RANKS)
    assert (found.work.prefill_tokens, found.work.decode_sequences, found.num_writes) == (100, 2, 2)
    assert (found.work.prefill_by_rank, found.work.decode_by_rank) == ({8: 100}, {64: 1, 0: 1})
    assert found.work.context_tokens == 100 + 31 + 8
    assert sorted(found.work.adapter_ranks) == [8, 64]


def test_its_shape_is_the_one_that_it_was_padded_to():
    log = [step(1.0, chunk("r", 0, 100)), step(1.1, chunk("r", 100, 1)), step(1.2, chunk("r", 101, 1))]
    assert [one.shape_tokens for one in steps_of(log, LIMITS, RANKS)] == [160, 8]


def test_every_host_has_the_ratios_of_its_own_steps():
    assert rows((1.5, 0.5, 2.0), (2, 0, 1)) == ((1.5, 0.5), (1.0,), (2.0,))


def outcome(sent_s, first_s, late_s=0.0):
    return Outcome(
        due_s=sent_s - late_s,
        adapter="",
        rank=0,
        prompt_tokens=1,
        output_tokens=1,
        sent_s=sent_s,
        first_s=first_s,
        end_s=first_s,
    )


def ways(*pairs, logs):
    sent = Sent(
        outcomes=tuple(one for one, _ in pairs),
        began_s=100.0,
        span_s=1.0,
        num_clipped=0,
        num_short=0,
        num_uncounted=0,
        endings=tuple(ending for _, ending in pairs),
        words={},
        is_whole=True,
    )
    return ways_s(sent, logs)


def ending(first_token_s):
    return Ending(prompt_tokens=1, output_tokens=1, host="h", first_token_s=first_token_s)


LOGS = {"h": [LoggedStep(101.0, 101.4, 0, ()), LoggedStep(103.0, 103.1, 0, ())]}


def test_the_way_is_what_the_host_does_not_count():
    assert ways((outcome(2.0, 2.5), ending(0.3)), logs=LOGS) == pytest.approx([0.2])


def test_the_rest_of_the_step_that_goes_on_is_no_part_of_the_way():
    assert ways((outcome(1.1, 2.0), ending(0.5)), logs=LOGS) == pytest.approx([0.1])


def test_the_way_begins_when_the_request_was_due():
    assert ways((outcome(2.0, 2.5, late_s=0.1), ending(0.3)), logs=LOGS) == pytest.approx([0.3])


def test_before_the_first_step_a_host_waits():
    assert ways((outcome(0.5, 0.75), ending(0.2)), logs=LOGS) == pytest.approx([0.05])


def test_requests_that_failed_have_no_way():
    assert ways((outcome(0.5, math.inf), None), logs=LOGS) == []
