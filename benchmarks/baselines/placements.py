"""Placements that others use, as functions of the type `placement_input.Policy`. Owns: them. Does not: run them.

A cluster takes one by name: `[placement] policy = "benchmarks.baselines.placements:contiguous"`.
"""

from collections.abc import Sequence
from random import Random

import numpy as np

from cluster.placement_input import PlacementInput
from cluster.view import Adapter, HostName, Share, Shares

_PART = 0.5
"""Of a mean host's tokens: what one copy of an adapter is to carry at most, by rendezvous hashing."""


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
    """Everything everywhere."""
    return {version: _equal(_hosts(given)) for version in given.adapters}


def rendezvous(given: PlacementInput) -> Shares:
    """The hosts with the highest hashes with the adapter; more of them, the more tokens it wants, whatever its rank.

    A host that comes or goes moves only what it must. Source: Thaler and Ravishankar 1998; the number of copies is the
    proposal for NVIDIA Dynamo's.
    """
    hosts = _hosts(given)
    if not hosts:
        return {}
    tokens = {version: demand.mean for version, demand in given.demand.items()}
    each = _PART * sum(tokens.values()) / len(hosts)
    keys = np.array([_key(host) for host in hosts], np.uint64)
    shares = {}
    for version, adapter in given.adapters.items():
        wanted = -(-tokens.get(version, 0.0) // each) if each else 1
        num_copies = min(len(hosts), max(_num_copies(adapter, hosts), int(wanted)))
        best = np.argsort(_mixed(keys ^ np.uint64(_key(version))))[:num_copies]
        shares[version] = _equal([hosts[number] for number in best.tolist()])
    return shares


def _key(name: str) -> int:
    return Random(name).getrandbits(64)


def _mixed(keys: np.ndarray) -> np.ndarray:
    """64-bit hashes of numbers. Source: splitmix64's finaliser, Steele et al. 2014."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _hosts(given: PlacementInput) -> list[HostName]:
    return sorted(view.spec.name for view in given.hosts)


def _num_copies(adapter: Adapter, hosts: Sequence[HostName]) -> int:
    return min(max(1, adapter.min_copies), len(hosts))


def _equal(hosts: Sequence[HostName]) -> tuple[Share, ...]:
    return tuple(Share(host, 1 / len(hosts)) for host in hosts)
