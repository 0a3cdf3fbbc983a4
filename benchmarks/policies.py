"""Placements that others use, as functions of the type `placement_input.Policy`. Owns: them. Does not: run them.

A cluster takes one by name: `[placement] policy = "benchmarks.policies:contiguous"`.
"""

from collections.abc import Sequence
from random import Random

from cluster.placement_input import PlacementInput
from cluster.view import Adapter, HostName, Share, Shares


def random(given: PlacementInput) -> Shares:
    """Each adapter on hosts drawn by chance; the same ones while the hosts stay the same."""
    hosts = _hosts(given)
    return {
        version: _equal(Random(version).sample(hosts, _num_copies(adapter, hosts)))
        for version, adapter in given.adapters.items()
    }


def contiguous(given: PlacementInput) -> Shares:
    """Adapters in order of rank, as many on each host, without a look at demand (S-LoRA Contiguous)."""
    hosts = _hosts(given)
    ordered = sorted(given.adapters.values(), key=lambda adapter: (adapter.rank, adapter.version))
    shares = {}
    for number, adapter in enumerate(ordered):
        first = number * len(hosts) // len(ordered)
        taken = [hosts[(first + copy) % len(hosts)] for copy in range(_num_copies(adapter, hosts))]
        shares[adapter.version] = _equal(taken)
    return shares


def replicated(given: PlacementInput) -> Shares:
    """Everything everywhere: requests go to the least loaded host."""
    return {version: _equal(_hosts(given)) for version in given.adapters}


def _hosts(given: PlacementInput) -> list[HostName]:
    return sorted(view.spec.name for view in given.hosts)


def _num_copies(adapter: Adapter, hosts: Sequence[HostName]) -> int:
    return min(max(1, adapter.min_copies), len(hosts))


def _equal(hosts: Sequence[HostName]) -> tuple[Share, ...]:
    return tuple(Share(host, 1 / len(hosts)) for host in hosts)
