"""A workload's adapters, and the server's adapters that stand for them. Owns: that choice. Does not: load any."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from benchmarks.drive.records import Offer
from benchmarks.workloads.records import Workload

MAKE = "write adapters of these names with --make-adapters DIR and start the server with them"


@dataclass(frozen=True, slots=True)
class Stand:
    """The adapter of the server that answers for one of the workload."""

    name: str
    rank: int
    """The server's; the workload's where the server does not tell."""


def by_name(workload: Workload, offer: Offer) -> Mapping[str, Stand]:
    """Every adapter that is asked for, by its own name.

    Raises: ValueError where the server lacks one, or has it with another rank.
    """
    asked = _asked(workload)
    if missing := [name for name in asked if name not in offer.ranks]:
        others = f" and {len(missing) - 1} others of the workload" if len(missing) > 1 else ""
        raise ValueError(
            f"{offer.name} has no adapter {missing[0]!r}{others}; {MAKE}, or use its own: --adapters-from-server"
        )
    for name in asked:
        rank = offer.ranks[name]
        if rank not in (None, workload.ranks[name]):
            raise ValueError(
                f"{offer.name} has adapter {name!r} with rank {rank}, the workload with rank {workload.ranks[name]}; "
                f"{MAKE}"
            )
    return {name: Stand(name, workload.ranks[name]) for name in asked}


def by_rank(workload: Workload, offer: Offer) -> Mapping[str, Stand]:
    """Every adapter that is asked for, by one of the server's of the same rank; they are dealt out in turns.

    Where the server tells no ranks, all its adapters are dealt out, and count as having the workload's ranks.
    Raises: ValueError where it has none of a rank.
    """
    stands = {}
    turns = {rank: cycle(names) for rank, names in _names_of(offer).items()}
    for name in _asked(workload):
        rank = workload.ranks[name]
        names = turns.get(rank) or turns.get(None)
        if names is None:
            raise ValueError(f"{offer.name} has no adapter of rank {rank}, which {name!r} needs; {MAKE}")
        stands[name] = Stand(next(names), rank)
    return stands


def _asked(workload: Workload) -> Sequence[str]:
    """Names, most wanted first."""
    counts = Counter(one.adapter for one in workload.arrivals if one.adapter)
    return [name for name, _ in counts.most_common()]


def _names_of(offer: Offer) -> Mapping[int | None, Sequence[str]]:
    names: dict[int | None, list[str]] = {}
    for name, rank in offer.ranks.items():
        names.setdefault(rank, []).append(name)
    return names
