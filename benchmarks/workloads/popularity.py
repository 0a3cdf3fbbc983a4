"""Who is asked for. Owns: popularity that stands or shifts, the draw, the order of a trace. Does not: make times.

Popularity is a table of weights[epoch, adapter]: an epoch is a stretch of time in which they do not change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.workloads.arrivals import Coming, Floats, Ints, Span, wander

ZIPF = 1.11
"""Of the LoRA requests of Alibaba's GenTD26 trace, of adapters used at least three times."""
_NUM_EPOCHS = 48
"""Ten minutes each of eight hours."""
_HOUR = 6.0
_NUM_SHIFTS = 10
_SHIFT = 7
"""How many places popularity moves at once: ranks of all sizes take turns, whatever the mix."""

type Popularity = Callable[[Coming, Ints, Span, np.random.Generator], Ints]
"""Arrivals, rank of each adapter, what is played -> the number of the adapter of each arrival; -1: the base model."""
type Table = Callable[[Ints, np.random.Generator], Floats]
"""Rank of each adapter -> weights[epoch, adapter], of epochs of equal length."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    table: Table

    def __call__(self, coming: Coming, ranks: Ints, span: Span, random: np.random.Generator) -> Ints:
        weights = self.table(ranks, random)
        sums = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
        told = span.begins + coming.at_s * (span.lasts / span.duration_s)
        epochs = np.minimum((told * len(weights)).astype(np.int64), len(weights) - 1)
        ends = np.searchsorted(epochs, np.arange(len(weights) + 1))
        chance = random.random(len(epochs))
        picks = np.empty(len(epochs), np.int64)
        for epoch, row in enumerate(sums):
            part = slice(ends[epoch], ends[epoch + 1])
            picks[part] = np.searchsorted(row, chance[part], side="right")
        return np.minimum(picks, len(ranks) - 1)  # a sum may round to less than 1


def _uniform(ranks: Ints, random: np.random.Generator) -> Floats:
    return np.ones((1, len(ranks)))


def _zipf(ranks: Ints, random: np.random.Generator) -> Floats:
    return (np.arange(1.0, len(ranks) + 1) ** -ZIPF)[np.newaxis]


def _exponential(ranks: Ints, random: np.random.Generator) -> Floats:
    """A fifth of the adapters further on, requests are e times fewer."""
    return np.exp(-5.0 * np.arange(len(ranks)) / len(ranks))[np.newaxis]


def _shifting(ranks: Ints, random: np.random.Generator) -> Floats:
    """Zipf's law; ten times in all, all places move along the adapters."""
    return np.stack([np.roll(_zipf(ranks, random)[0], _SHIFT * shift) for shift in range(_NUM_SHIFTS)])


def _ranks_alike(ranks: Ints, random: np.random.Generator) -> Floats:
    return _by_rank(np.ones((1, len(np.unique(ranks)))), ranks)


def _ranks_halving(ranks: Ints, random: np.random.Generator) -> Floats:
    return _by_rank(0.5 ** np.arange(len(np.unique(ranks)))[np.newaxis], ranks)


def _ranks_shifting(ranks: Ints, random: np.random.Generator) -> Floats:
    """The busiest rank wanders from the smallest to the largest and back; one further from it has half the requests."""
    last = len(np.unique(ranks)) - 1
    busiest = last * (1 - np.abs(np.linspace(-1, 1, _NUM_EPOCHS)))
    return _by_rank(0.5 ** np.abs(np.arange(last + 1) - busiest[:, np.newaxis]), ranks)


def _restless(ranks: Ints, random: np.random.Generator) -> Floats:
    """Zipf's law inside each rank; ranks and adapters wander, with a memory of an hour of eight."""
    places = np.empty(len(ranks))
    for rank in np.unique(ranks):
        places[ranks == rank] = np.arange(1, (ranks == rank).sum() + 1)
    ranks_walk = np.exp(wander(_NUM_EPOCHS, len(np.unique(ranks)), 0.8, _HOUR, random))
    own_walk = np.exp(wander(_NUM_EPOCHS, len(ranks), 0.5, _HOUR, random))
    return _by_rank(ranks_walk, ranks, places**-ZIPF * own_walk)


def _by_rank(shares: Floats, ranks: Ints, weights: Floats | None = None) -> Floats:
    """Weights[epoch, adapter] that add up to shares[epoch, rank], ranks rising, in proportion to `weights`."""
    _, which = np.unique(ranks, return_inverse=True)
    own = np.broadcast_to(np.ones(len(ranks)) if weights is None else weights, (len(shares), len(ranks)))
    of_rank = np.stack([own[:, which == rank].sum(axis=1) for rank in range(shares.shape[1])], axis=1)
    return own * (shares / of_rank)[:, which]


POPULARITY: dict[str, Popularity] = {
    "uniform": _Drawn(_uniform),
    "zipf": _Drawn(_zipf),
    "exponential": _Drawn(_exponential),
    "shifting": _Drawn(_shifting),
    "ranks-uniform": _Drawn(_ranks_alike),
    "ranks-exponential": _Drawn(_ranks_halving),
    "ranks-shifting": _Drawn(_ranks_shifting),
    "restless": _Drawn(_restless),
}
"""By the names of the flag; `ranks-…` share requests out to ranks first, then evenly inside a rank."""


def recorded(order: Sequence[str], names: Sequence[str]) -> Popularity:
    """The adapters of a trace whose times are played: each row has its own, empty text is the base model."""
    number = {name: place for place, name in enumerate(names)} | {"": -1}
    numbers = np.array([number[name] for name in order], np.int64)

    def popularity(coming: Coming, ranks: Ints, span: Span, random: np.random.Generator) -> Ints:
        return numbers[coming.rows % len(numbers)]

    return popularity


def in_turn(order: Sequence[str], names: Sequence[str]) -> Popularity:
    """The adapters of a trace whose times are not played: one after the other, from the start again where it ends."""
    of_row = recorded(order, names)

    def popularity(coming: Coming, ranks: Ints, span: Span, random: np.random.Generator) -> Ints:
        return of_row(Coming(at_s=coming.at_s, rows=np.arange(len(coming.at_s))), ranks, span, random)

    return popularity
