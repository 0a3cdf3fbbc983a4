"""What is compared: a placement and a routing under one name. Owns: that list. Does not: run any.

Kernels are the other axis (`simulator.device.Kernels`): every system can be given each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster import placement, routings
from cluster.placement_input import Policy
from cluster.routing_input import Routing

_HERE = "benchmarks.baselines"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to run a cluster; a real one takes the same two names."""

    name: str
    policy: str
    """As in `[placement] policy`."""
    routing: str
    """As in `[placement] routing`."""
    about: str
    """What it is, and whose."""
    has_pool: bool = True
    """Whether hosts give each other adapters, as real ones do; else all come from the store."""

    @property
    def place(self) -> Policy:
        """Who places."""
        return placement.named(self.policy)

    @property
    def route(self) -> Routing:
        """Who chooses among hosts."""
        return routings.named(self.routing)


def _baseline(name: str, place: str, route: str, about: str) -> System:
    """One of this package's; a placement without a colon is the product's."""
    policy = place if place == "loraserve" else f"{_HERE}.{place}"
    return System(name=name, policy=policy, routing=f"{_HERE}.routings:{route}", about=about)


_ALL = (
    System(name="ours", policy="ours", routing="ours", about="lorajax"),
    _baseline("random", "placements:random", "SAMPLED", "each adapter on a host by chance (S-LoRA Random)"),
    _baseline("contiguous", "placements:contiguous", "SAMPLED", "adapters split by rank (S-LoRA Contiguous)"),
    _baseline("replicated", "placements:replicated", "LEAST_REQUESTS", "everything everywhere, fewest requests first"),
    _baseline("toppings", "placements:replicated", "TOPPINGS", "everything everywhere, least added time (ATC 2025)"),
    _baseline("loraserve", "loraserve", "SAMPLED", "budgets by rank, sampled by share (arXiv 2511.22880)"),
    _baseline("rendezvous", "placements:rendezvous", "LEAST_PLANNED", "hashing, copies by demand (Dynamo's proposal)"),
    _baseline("dlora", "dlora:place", "LEAST_PLANNED", "integer programming between hot and cold hosts (OSDI 2024)"),
)

SYSTEMS: Mapping[str, System] = {one.name: one for one in _ALL}
"""Whole ones, for real clusters and simulated ones."""

_EXCHANGED = (
    System(name="ours+sampled", policy="ours", routing=f"{_HERE}.routings:SAMPLED", about="our placement alone"),
    System(name="loraserve+ours", policy="loraserve", routing="ours", about="our routing alone"),
    System(name="replicated+ours", policy=SYSTEMS["replicated"].policy, routing="ours", about="nothing to place"),
    System(name="ours+store", policy="ours", routing="ours", has_pool=False, about="without a pool of adapters"),
)

SIMULATED: Mapping[str, System] = {**SYSTEMS, **{one.name: one for one in _EXCHANGED}}
"""Also ours with one part exchanged: placement+routing, or what stands in for the pool."""
