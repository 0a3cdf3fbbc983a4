"""A crowd on one adapter, from arrivals to first tokens: who came for it waits, and hardly anybody else."""

from dataclasses import replace
from statistics import median

from benchmarks.baselines.systems import SYSTEMS
from benchmarks.simulator.cluster import simulate
from tests.benchmarks.simulator.rig import config, hardware, workload

STEADY = [(0.5 * number, 8, 10, "ab"[number % 2]) for number in range(120)]
CROWD = [(20 + 0.1 * number, 8, 10, "c") for number in range(100)]


def waits(*arrivals):
    """Seconds to the first token by adapter, of all who came in the time of the crowd."""
    given = replace(config(), num_hosts=1, hardware=hardware(num_kv_pages=60, max_sequences=64, max_batch_tokens=64))
    run = simulate(workload(*sorted(arrivals)), SYSTEMS["ours"], given)
    seen = [one for one in run.outcomes if 20 <= one.due_s < 40]
    return {name: [one.first_s - one.due_s for one in seen if one.adapter == name] for name in "abc"}


def test_a_crowd_waits_for_itself():
    found = waits(*STEADY, *CROWD)
    assert max(median(found["a"]), median(found["b"])) < median(found["c"]) / 2
