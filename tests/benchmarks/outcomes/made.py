"""Runs small enough to compute by hand."""

from benchmarks.outcomes.records import HostUse, Outcome, Run
from benchmarks.outcomes.statistics import Slo

SLO = Slo(ttft_s=2.0)
OUTCOMES = (
    # TTFT 1, TPOT 0.5, E2EL 2: within
    Outcome(
        due_s=0.0,
        adapter="small",
        rank=8,
        prompt_tokens=10,
        output_tokens=3,
        sent_s=0.0,
        first_s=1.0,
        end_s=2.0,
        token_s=(1.0, 1.5, 2.0),
    ),
    # sent half a second late, TTFT 3 from when it was due, TPOT 0.25, E2EL 4: not within
    Outcome(
        due_s=1.0,
        adapter="large",
        rank=128,
        prompt_tokens=20,
        output_tokens=5,
        sent_s=1.5,
        first_s=4.0,
        end_s=5.0,
        token_s=(4.0, 5.0),
    ),
    # one token: no TPOT; TTFT and E2EL 2: just within
    Outcome(
        due_s=2.0,
        adapter="small",
        rank=8,
        prompt_tokens=30,
        output_tokens=1,
        sent_s=2.0,
        first_s=4.0,
        end_s=4.0,
        token_s=(4.0,),
    ),
    # failed after its first token
    Outcome(
        due_s=3.0,
        adapter="large",
        rank=128,
        prompt_tokens=40,
        output_tokens=2,
        sent_s=3.0,
        first_s=3.5,
        code="UNAVAILABLE",
    ),
)
HOSTS = {
    "a": HostUse(
        busy_s=6.0,
        tokens=60,
        mean_held_bytes=1.5 * 2**20,
        max_held_bytes=2 * 2**20,
        max_held_adapters=2,
        device_hits=2,
        host_hits=1,
        stall_s=0.5,
    ),
    "b": HostUse(
        busy_s=2.0,
        tokens=40,
        mean_held_bytes=2.0**20,
        max_held_bytes=2**20,
        max_held_adapters=1,
        misses=1,
        stall_s=0.25,
    ),
}


def run(*, system="ours", seed=0, outcomes=OUTCOMES, **facts):
    """Four requests in ten seconds on two hosts."""
    return Run(
        system=system,
        workload="by hand",
        facts={"seed": seed, "model": "tiny", "workload": {"rate": 0.4, "seed": seed}} | facts,
        outcomes=outcomes,
        span_s=10.0,
        hosts=HOSTS,
        moved_bytes=2**20,
        num_moves=1,
        placements=((0.0, {"small": {"a": 1.0}, "large": {"a": 0.25, "b": 0.75}}),),
    )
