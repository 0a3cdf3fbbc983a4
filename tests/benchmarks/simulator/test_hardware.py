"""Presets: their sizes, what they sustain, and their files."""

from dataclasses import replace

import pytest

from benchmarks.outcomes.statistics import Slo
from benchmarks.simulator import hardware_files, presets
from benchmarks.simulator.device import Kernels, Shapes
from benchmarks.simulator.presets import PRESETS

SLO = Slo(ttft_s=10.0, tpot_s=0.2)
every = pytest.mark.parametrize("hardware", PRESETS.values(), ids=PRESETS.keys())


def test_a_rank_8_adapter_of_llama_7b_has_the_published_size():
    assert PRESETS["a100-tp4-llama-7b-slora"].adapter_bytes(8) == pytest.approx(16.8e6, rel=0.01)


@every
def test_an_adapter_takes_whole_pages(hardware):
    assert hardware.adapter_bytes(9) == hardware.adapter_bytes(16) == 2 * hardware.page_bytes


@every
@pytest.mark.parametrize("kernels", Kernels)
def test_a_larger_rank_sustains_less(hardware, kernels):
    points = hardware.points(kernels, SLO)
    rates = [points.tokens_per_s[rank] for rank in sorted(points.tokens_per_s)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
    assert points.mixing == kernels.mixing


@every
def test_a_tighter_target_sustains_less(hardware):
    tight = hardware.points(Kernels.RANK_EXACT, Slo(ttft_s=1.0, tpot_s=0.2))
    loose = hardware.points(Kernels.RANK_EXACT, SLO)
    assert all(tight.tokens_per_s[rank] < loose.tokens_per_s[rank] for rank in tight.tokens_per_s)


@every
def test_a_target_that_nothing_meets_leaves_one_request_at_a_time(hardware):
    slowest = hardware.points(Kernels.RANK_EXACT, Slo(ttft_s=1e-6, tpot_s=1e-6), prompt_tokens=100, new_tokens=10)
    work_s = 110 / slowest.tokens_per_s[0]
    assert work_s >= 10 * hardware.step.base.overhead_s


def test_four_a100_take_about_eight_requests_of_mixed_ranks():
    points = PRESETS["a100-tp4-llama-7b-slora"].points(Kernels.BATCH_MAX, SLO)
    assert points.tokens_per_s[128] / (1155 + 211) == pytest.approx(8, abs=0.8)


@every
def test_a_file_holds_all_of_it(hardware, tmp_path):
    hardware_files.write(tmp_path / "steps-one.json", hardware, {"seed": 1})
    assert presets.named("one", tmp_path) == presets.named(str(tmp_path / "steps-one.json")) == hardware


def test_a_file_holds_shapes(tmp_path):
    hardware = PRESETS["h200-llama-8b"]
    shapes = Shapes(decode=((8, 1.0),), mixed=((40, 2.0), (80, 3.0)))
    measured = replace(hardware, step=replace(hardware.step, base=shapes, kernels=Kernels.SERVER_MAX))
    hardware_files.write(tmp_path / "steps-one.json", measured, {})
    assert presets.named("one", tmp_path) == measured


def test_another_file_is_told(tmp_path):
    path = tmp_path / "steps-one.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"steps-one.json holds no measured hardware .+; write it with"):
        presets.named("one", tmp_path)


def test_an_unknown_name_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"steps-none.json: No such file .+; name a file of .+a100-tp4"):
        presets.named("none", tmp_path)
