"""What changed between runs, how sure that is, and which runs are not compared."""

import math
from dataclasses import replace

import pytest

from benchmarks.outcomes import compare
from benchmarks.outcomes.files import Result
from benchmarks.outcomes.statistics import Slo, summary
from tests.benchmarks.outcomes.made import OUTCOMES, SLO, run


def _result(*, slower_s=0.0, slo=SLO, **what):
    """A run whose three good requests end so much later than by hand."""
    outcomes = tuple(replace(one, first_s=one.first_s + slower_s, end_s=one.end_s + slower_s) for one in OUTCOMES)
    made = run(outcomes=outcomes, **what)
    return Result(run=made, summary=summary(made, slo))


def _change(before, after, name):
    return next(one for one in compare.compared(before, after) if one.metric.name == name)


def test_paired_interval_is_students_of_the_differences():
    # differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027
    low, high = compare.interval((10, 20, 30), (11, 22, 33), is_paired=True)
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3)


def test_unpaired_interval_is_welchs():
    # variances 1 and 4 of three: error sqrt(5/3), freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.941, t = 3.2182
    low, high = compare.interval((1, 2, 3), (2, 4, 6), is_paired=False)
    assert (low, high) == pytest.approx((2 - 3.2182 * math.sqrt(5 / 3), 2 + 3.2182 * math.sqrt(5 / 3)), abs=2e-3)


def test_one_seed_has_no_interval():
    change = _change([_result()], [_result(slower_s=1.0)], "Median TTFT")
    assert (change.before, change.after, change.verdict) == (2000.0, 3000.0, "one seed")


def test_differences_within_a_seed_are_seen_through_the_spread_of_seeds():
    before = [_result(seed=seed, slower_s=seed * 10.0) for seed in (0, 1, 2)]
    after = [_result(seed=seed, slower_s=seed * 10.0 - 0.5 - 0.01 * seed) for seed in (2, 1, 0)]
    assert _change(before, after, "Median TTFT").verdict == "better"


def test_the_same_spread_hides_them_where_seeds_differ():
    before = [_result(seed=seed, slower_s=seed * 10.0) for seed in (0, 1, 2)]
    after = [_result(seed=seed + 3, slower_s=seed * 10.0 - 0.5) for seed in (0, 1, 2)]
    assert _change(before, after, "Median TTFT").verdict == "unclear"


def test_less_goodput_is_worse():
    before = [_result(seed=seed) for seed in (0, 1)]
    after = [_result(seed=seed, slower_s=1.0) for seed in (0, 1)]
    assert _change(before, after, "Request goodput").verdict == "worse"


def test_systems_kernels_and_versions_may_differ():
    after = _result(system="loraserve", kernels="batch-max", versions={"lorajax": "2"}, command="other")
    assert compare.compared([_result(kernels="rank-exact", versions={"lorajax": "1"})], [after])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"model": "large"}, "the runs differ in model: tiny and large; compare"),
        ({"scale": 2}, "the runs differ in scale: not said and 2; compare"),
        ({"workload": {"rate": 8.0}}, r"the runs differ in workload.rate: 0.4 and 8.0; compare"),
        ({"slo": Slo(ttft_s=10)}, "the runs differ in SLO: TTFT ≤ 2 s for 95% and TTFT ≤ 10 s for 95%; compare"),
    ],
)
def test_unlike_runs_are_refused_in_one_line_that_names_the_field(other, said):
    with pytest.raises(ValueError, match=said) as caught:
        compare.compared([_result()], [_result(**other)])
    assert "\n" not in str(caught.value)


def test_runs_that_were_stopped_early_are_refused_also_where_both_were():
    with pytest.raises(ValueError, match="a run was stopped early"):
        compare.compared([_result(is_whole=False)], [_result(is_whole=False)])


def test_runs_on_other_numbers_of_hosts_are_refused():
    fewer = _result()
    fewer = replace(fewer, run=replace(fewer.run, hosts={"a": fewer.run.hosts["a"]}))
    with pytest.raises(ValueError, match="differ in hosts: 2 and 1"):
        compare.compared([_result()], [fewer])


def test_table_says_what_was_compared_and_what_changed():
    lines = compare.table([_result()], [_result(system="loraserve", slower_s=1.0)]).splitlines()
    assert lines[:2] == ["by hand, TTFT ≤ 2 s for 95%", "system: ours -> loraserve"]
    row = next(line for line in lines if line.startswith("Median TTFT (ms)"))
    assert row.split()[3:] == ["2000.00", "3000.00", "+50.0%", "one", "seed"]
