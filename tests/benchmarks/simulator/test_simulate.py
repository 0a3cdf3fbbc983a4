"""Whatever is drawn: a simulation answers everybody once, moves what it says, and does not depend on leaps."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings

from benchmarks.baselines.systems import SYSTEMS
from benchmarks.outcomes.statistics import Slo, summary
from benchmarks.simulator.cluster import kept, simulate
from benchmarks.simulator.device import StepWork
from tests.benchmarks.simulator.rig import ALL_SYSTEMS, CONFIGS, PAGE, RANKS, WORKLOADS, config, workload

drawn = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_steps_taken_at_once_come_to_the_same_as_one_by_one(asked, system, given):
    assert simulate(asked, system, given) == simulate(asked, system, replace(given, leaps=False))


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_the_same_seed_gives_the_same_run(asked, system, given):
    assert simulate(asked, system, given) == simulate(asked, system, given)


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_a_run_that_is_within_is_kept_and_one_that_is_given_up_is_not_within(asked, system, given):
    run, found = simulate(asked, system, given), kept(asked, system, given)
    assert found == run if summary(run, given.slo).is_within else found in (None, run)


def test_requests_before_the_run_is_warm_do_not_count():
    asked = workload(*((float(at_s), 40, 20, "a") for at_s in range(40)))
    lost = config(slo=Slo(ttft_s=0.001))
    assert kept(asked, SYSTEMS["ours"], lost) is None
    assert kept(asked, SYSTEMS["ours"], replace(lost, warm_s=39.5)) is not None


def test_what_hosts_did_before_the_run_was_warm_does_not_count():
    late = (30.0, 40, 20, "b")
    found = simulate(workload((1.0, 40, 20, "a"), late), SYSTEMS["ours"], config(warm_s=20.0))
    alone = simulate(workload(late), SYSTEMS["ours"], config())
    assert sum(one.tokens for one in found.hosts.values()) == 60
    for part in ("busy_s", "stall_s"):
        assert math.isclose(*(sum(getattr(one, part) for one in run.hosts.values()) for run in (found, alone)))
    assert found.moved_bytes == 0


def test_a_run_is_given_up_before_its_end():
    asked = workload(*((float(at_s), 40, 20, "a") for at_s in range(40)))
    seen = []

    def num_judged(run):
        ours, before = SYSTEMS["ours"], len(seen)
        route = replace(ours.route, score=lambda *judged: seen.append(0) or ours.route.score(*judged))
        watched = SimpleNamespace(name="", policy="", routing="", has_pool=True, place=ours.place, route=route)
        run(asked, watched, config(slo=Slo(ttft_s=1.0)))
        return len(seen) - before

    assert 0 < num_judged(kept) < num_judged(simulate)


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_every_arrival_has_one_outcome_with_its_own_sizes(asked, system, given):
    run = simulate(asked, system, given)
    assert [(one.due_s, one.prompt_tokens, one.adapter) for one in run.outcomes] == [
        (one.at_s, one.prompt_tokens, one.adapter) for one in asked.arrivals
    ]


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_who_is_answered_well_gets_all_tokens_and_nobody_gets_more(asked, system, given):
    run = simulate(asked, system, given)
    for one, arrival in zip(run.outcomes, asked.arrivals, strict=True):
        assert one.output_tokens <= arrival.output_tokens
        assert (one.output_tokens == arrival.output_tokens) or one.code != "OK"


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_nobody_is_answered_before_a_host_could_have_read_the_prompt(asked, system, given):
    run = simulate(asked, system, given)
    step = given.hardware.step
    for one in run.outcomes:
        least = StepWork(prefill_tokens=one.prompt_tokens, decode_sequences=0, context_tokens=one.prompt_tokens)
        assert one.first_s - one.due_s >= step.step_s(least) * 0.999
        assert one.end_s >= one.first_s or one.code != "OK"


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_without_faults_all_that_can_be_served_is_served(asked, system, given):
    run = simulate(asked, system, replace(given, losses=(), deadline_s=None))
    assert set(Counter(one.code for one in run.outcomes)) <= {"OK", "INVALID_ARGUMENT"}


@drawn
@given(WORKLOADS, ALL_SYSTEMS, CONFIGS)
def test_bytes_that_moved_are_those_of_copies_that_came(asked, system, given):
    run = simulate(asked, system, given)
    assert run.moved_bytes >= run.num_moves * PAGE
    held = sum(one.max_held_bytes for one in run.hosts.values())
    first = sum(-(-rank // 8) * PAGE for rank in RANKS.values())
    assert held <= first * len(run.hosts) + run.moved_bytes
