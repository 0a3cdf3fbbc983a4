"""Sweeps small enough to judge by hand."""

import math

from benchmarks.outcomes.sweeps import Bound, Case, Limit, Need, Point, Sweep, Trial


def case(system="ours", kernels="rank-exact", setting="zipf", seed=0, slo_s=10.0, hosts=4):
    """One of them."""
    return Case(setting=setting, system=system, kernels=kernels, seed=seed, slo_s=slo_s, hosts=hosts)


def limit(rate, held_share=0.25, **where):
    """The highest load of a case."""
    return Limit(case=case(**where), rate=rate, held_share=held_share)


def point(rate, tail_s, **where):
    """A case at a load."""
    return Point(
        case=case(**where),
        rate=rate,
        throughput=min(rate, 40.0),
        tail_ttft_s=tail_s,
        median_ttft_s=tail_s / 4,
        mean_tpot_s=0.05,
        attainment=0.9,
        held_bytes=1e9,
        replicated_bytes=4e9,
        moved_bytes=0,
        imbalance=math.nan,
        device_share=0.75,
        tail_by_rank={8: tail_s, 128: 2 * tail_s},
        cdf_by_rank={8: (0.5, *(tail_s,) * 100), 128: (1.0,) * 50 + (math.inf,) * 51},
    )


def need(hosts, rate=32.0, **where):
    """Hosts for a load."""
    return Need(case=case(**where), rate=rate, hosts=hosts)


PADDED = {"kernels": "batch-max"}
SWEEP = Sweep(
    facts={"command": "python -m benchmarks sweep", "hosts": 4, "seeds": 1, "kernels": ["rank-exact", "batch-max"]},
    points=(
        point(20.0, 1.0),
        point(40.0, 9.0),
        point(20.0, 2.0, system="loraserve", **PADDED),
        point(40.0, math.inf, system="loraserve", **PADDED),
        point(20.0, 10.0, system="contiguous", **PADDED),
    ),
    limits=(
        limit(40.0),
        limit(45.0, setting="bursts", held_share=0.5),
        limit(36.0, kernels="batch-max"),
        limit(32.0, system="loraserve", **PADDED),
        limit(30.0, system="loraserve", setting="bursts", **PADDED),
        limit(16.0, system="contiguous", **PADDED),
        limit(44.0, system="loraserve"),
    ),
    needs=(
        need(3.0),
        need(4.0, system="loraserve", **PADDED),
        need(8.0, system="contiguous", **PADDED),
        need(math.inf, system="random", **PADDED),
    ),
    trials=(Trial(case=case(), rate=28.0, disturbance="a lost host", calm_s=2.0, disturbed_s=3.0, goal=1.25),),
    bounds=(Bound(setting="zipf", kernels="rank-exact", seed=0, slo_s=10.0, hosts=4, rate=80.0, unburdened_rate=42.0),),
)
