"""Which adapter has which rank. Owns: the named mixes. Does not: know how often an adapter is asked for."""

from collections.abc import Callable

import numpy as np

from benchmarks.workloads.arrivals import Ints

RANKS = (8, 16, 32, 64, 128)
_ONE_RANK = 32

type Mix = Callable[[int, np.random.Generator], Ints]
"""So many adapters, the popular ones first -> the rank of each."""


def families(count: int, random: np.random.Generator) -> Ints:
    """Every rank equally often; neighbours share one, the smallest first."""
    return np.array(RANKS)[np.arange(count) * len(RANKS) // count]


def only(*ranks: int) -> Mix:
    """These ranks alone, equally often, whoever is popular: one of each among the first, one of each among the next."""

    def mix(count: int, random: np.random.Generator) -> Ints:
        groups = np.tile(np.array(ranks), (-(-count // len(ranks)), 1))
        return random.permuted(groups, axis=1).ravel()[:count]

    return mix


def skewed(count: int, random: np.random.Generator) -> Ints:
    """Each rank half as often as the next smaller one, whoever is popular."""
    ends = np.cumsum(0.5 ** np.arange(len(RANKS)))
    places = (np.arange(count) + 0.5) / count * ends[-1]
    return random.permutation(np.array(RANKS)[np.searchsorted(ends, places)])


MIXES: dict[str, Mix] = {"mixed": only(*RANKS), "uniform": only(_ONE_RANK), "skewed": skewed, "families": families}
"""By the names of the flags; `uniform` is rank 32 for all, to see what is left when ranks do not differ."""


def parsed(text: str) -> Mix:
    """A mix by its name, or ranks with commas between.

    Raises: ValueError for anything else.
    """
    if text in MIXES:
        return MIXES[text]
    ranks = [int(rank) if rank.isdecimal() else 0 for rank in text.split(",")]
    if min(ranks) < 1:
        raise ValueError(f"ranks {text!r} is no mix; write {', '.join(MIXES)}, or ranks such as 8,64")
    return only(*ranks)
