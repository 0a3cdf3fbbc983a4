"""Routings that others use, as values of the type `routing_input.Routing`. Owns: them. Does not: run them.

A cluster takes one by name: `[placement] routing = "benchmarks.baselines.routings:SAMPLED"`.
"""

import math

from cluster.routing_input import Ask, Candidate, Routing, View

_MISSED_S = 1e3
"""Added for a predicted miss of the latency target: such a host is taken only where every one would miss."""


def sampled(_: Ask, candidate: Candidate, view: View) -> float:
    """A draw that is lowest on each host with the probability of its share: an exponential race at that rate."""
    share = next((one.share for one in view.shares if one.host == candidate.name), 0.0)
    return view.random.expovariate(share) if share > 0 else math.inf


def requests(_: Ask, candidate: Candidate, view: View) -> float:
    """Requests there for each unit of speed; equal ones by chance."""
    return (candidate.host.num_requests + view.random.random()) / candidate.host.spec.speed


def added_s(_: Ask, candidate: Candidate, view: View) -> float:
    """Seconds that the request waits there for its prompt, and that it adds to all who decode there, ranks considered.

    Every token costs its own rank, or the largest of its host, as the operating points say.
    Source: Toppings (ATC 2025; CaraServe, arXiv 2401.11240): least added prefill and decode time by a model fitted to
    the kernels, and a penalty where a latency target would be missed. The exact formula is not known; ours counts what
    all requests of the host wait longer, and the host's queue.
    """
    host, work, config = candidate.host, candidate.work, view.config
    others, speed = host.num_requests, host.spec.speed
    raised_s = 0.0
    if view.mixing and host.ranks and work.rank > (largest := max(host.ranks)):
        raised_s = view.mixing * others * (view.cost_s(work.rank) - view.cost_s(largest))
    step_s = host.step_s + raised_s + work.cost_s
    added = candidate.first_s + work.new_tokens * ((others + 1) * step_s - others * host.step_s) / speed
    is_missed = candidate.first_s > config.ttft_p95_s or step_s / speed > config.tbt_p95_s
    return added + _MISSED_S * is_missed


SAMPLED = Routing(score=sampled, num_spill=0)
LEAST_REQUESTS = Routing(score=requests)
LEAST_PLANNED = Routing(score=requests, num_spill=0)
"""Of the hosts of the plan alone."""
TOPPINGS = Routing(score=added_s)
