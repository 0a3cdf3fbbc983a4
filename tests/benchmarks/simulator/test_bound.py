"""The clairvoyant bound, on workloads small enough to add up by hand."""

from dataclasses import replace

import pytest

from benchmarks.simulator.bound import bound
from benchmarks.simulator.device import Roofline, StepModel
from benchmarks.simulator.presets import PRESETS
from benchmarks.workloads.records import Arrival, Workload
from lorajax.limits import EngineLimits

# A token takes 1 ms, whatever the step.
_PRESET = PRESETS["a100-tp4-llama-7b-slora"]
HARDWARE = replace(
    _PRESET,
    step=StepModel(
        base=Roofline(overhead_s=0.0, weights_s=0.0, token_s=1e-3),
        context_s=0.0,
        adapters_s=0.0,
        adapter_token_s=0.0,
        row_s=0.0,
        prefill_row_s=1e-5,
        decode_row_s=1e-5,
    ),
    limits=EngineLimits(
        config=replace(_PRESET.limits.config, max_sequences=1, max_batch_tokens=64),
        num_kv_pages=100,
        num_adapter_pages=100,
        max_model_len=4096,
    ),
)


def workload(*arrivals, ranks=None):
    return Workload(name="made", arrivals=arrivals, ranks=ranks or {})


def test_one_request_needs_its_prompt_read():
    assert bound(workload(Arrival(0.0, 100, 1)), HARDWARE, 4).ttft_s == pytest.approx(0.1)


def test_a_rank_costs_what_it_costs_alone():
    asked = workload(Arrival(0.0, 100, 1, "one"), ranks={"one": 50})
    assert bound(asked, HARDWARE, 1).ttft_s == pytest.approx(100 * (1e-3 + 50e-5))


@pytest.mark.parametrize(("num_hosts", "seconds"), [(1, 1.0), (2, 0.5), (20, 0.1)])
def test_a_crowd_is_read_by_all_hosts_together(num_hosts, seconds):
    crowd = workload(*[Arrival(0.0, 100, 1)] * 10)
    assert bound(crowd, HARDWARE, num_hosts, quantile=1.0).ttft_s == pytest.approx(seconds)


def test_what_the_quantile_forgives_is_left_out_at_its_dearest():
    crowd = workload(*[Arrival(0.0, 100, 1)] * 9, Arrival(0.0, 5000, 1))
    assert bound(crowd, HARDWARE, 1, quantile=0.9).ttft_s == pytest.approx(0.9)


def test_places_are_free_only_once_answers_have_ended():
    # One place: nine of ten have ended, 100 + 100 tokens each, when the last prompt is read.
    crowd = workload(*[Arrival(0.0, 100, 101)] * 10)
    assert bound(crowd, HARDWARE, 1, quantile=1.0).ttft_s == pytest.approx(9 * 0.2 + 0.1)


def test_a_steady_stream_has_the_load_of_one_host():
    # 0.1 s of work every 0.2 s: twice as fast is all that one host does; the target lets a little more through.
    stream = workload(*(Arrival(0.2 * number, 100, 1) for number in range(200)))
    found = bound(stream, HARDWARE, 1, quantile=1.0)
    assert found.ttft_s == pytest.approx(0.1)
    assert found.max_speedup(0.1) == pytest.approx(2, rel=0.01)
    assert 2 < found.max_speedup(1.0) < 2.3


def test_a_target_below_one_prompt_is_out_of_reach():
    assert bound(workload(Arrival(0.0, 100, 1)), HARDWARE, 4).max_speedup(0.05) == 0


def test_a_step_that_costs_the_same_however_full_is_shared_by_a_full_one():
    step = replace(HARDWARE.step, base=Roofline(overhead_s=0.1, weights_s=0.0, token_s=0.0))
    limits = replace(HARDWARE.limits, config=replace(HARDWARE.limits.config, max_sequences=4))
    crowd = workload(*[Arrival(0.0, 1, 101)] * 8)
    found = bound(crowd, replace(HARDWARE, step=step, limits=limits), 1, quantile=1.0)
    # Four answers of 100 more tokens have ended, four at a time: a hundred steps.
    assert found.ttft_s == pytest.approx(10, rel=0.02)
