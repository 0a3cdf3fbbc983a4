"""When requests come. Owns: processes with a seed, the scaling of a trace's times. Does not: know what is asked for.

A process is a function of requests/s, a span and a generator. All of them give round(rate * seconds) requests, so that
runs with other seeds have the same load; where they are Poisson, they are so given that number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.floating]
type Ints = NDArray[np.int64]

_CYCLE = 3.0
"""How many times busier the peak of a day is than its trough."""
STORY_S = 28_800.0
"""Eight hours: the time in which days pass and popularity changes."""
_NUM_MINUTES = 480
"""Of those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """How long is played, and which part of the eight hours that is: the whole, squeezed, unless it says otherwise."""

    duration_s: float
    begins: float = 0.0
    """As a part of the eight hours; so is `lasts`."""
    lasts: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """Times in order, and for each which row of its source it stems from."""

    at_s: Floats
    rows: Ints
    """Never falls: a trace that is repeated counts on, a request that stands for several has its row several times."""


type Times = Callable[[float, Span, np.random.Generator], Coming]


def uniform(rate: float, span: Span, random: np.random.Generator) -> Coming:
    """One after the other, at equal gaps."""
    return _numbered(np.arange(round(rate * span.duration_s)) / rate)


def poisson(rate: float, span: Span, random: np.random.Generator) -> Coming:
    """Independent of each other: gaps have a coefficient of variation of 1."""
    return _bent(np.ones(1), rate, span, random)


def gamma(cv: float) -> Times:
    """In bursts: gaps by the Gamma distribution, with this coefficient of variation."""

    def process(rate: float, span: Span, random: np.random.Generator) -> Coming:
        ends = np.cumsum(random.gamma(cv**-2, size=round(rate * span.duration_s) + 1))
        return _numbered(ends[:-1] * (span.duration_s / ends[-1]))

    return process


def diurnal(rate: float, span: Span, random: np.random.Generator) -> Coming:
    """One day, from trough to trough: the peak is three times as busy. Poisson within a moment."""
    return _bent(_day(), rate, span, random)


def flash(rate: float, span: Span, random: np.random.Generator) -> Coming:
    """A tenth of the time, from the middle on, everything is asked for five times as often. Poisson within a moment."""
    weights = np.ones(_NUM_MINUTES)
    weights[_NUM_MINUTES // 2 : _NUM_MINUTES // 2 + _NUM_MINUTES // 10] = 5.0
    return _bent(weights, rate, span, random)


def restless(rate: float, span: Span, random: np.random.Generator) -> Coming:
    """A day with bursts that last about ten minutes of 480, by a factor of 1.35 up or down (one standard deviation).

    Minutes have a coefficient of variation of about 0.46: Azure's of 2023 have 0.25 (conv) and 1.03 (code).
    """
    bursts = np.exp(wander(_NUM_MINUTES, 1, 0.3, 10.0, random)[:, 0])
    return _bent(_day() * bursts, rate, span, random)


ARRIVALS: dict[str, Times] = {
    "uniform": uniform,
    "poisson": poisson,
    "gamma": gamma(4.0),
    "diurnal": diurnal,
    "flash": flash,
    "restless": restless,
}
"""By the names of the flags; `gamma` has a coefficient of variation of 4."""


def recorded(recorded_s: Floats, span_s: float) -> Times:
    """The times of a trace, again and again each `span_s`, at any rate with the shape of its bursts.

    More requests than recorded: every gap is cut into equal parts, so that each stretch keeps its part of the whole
    and gaps keep their coefficient of variation. Fewer: requests are left out at random, and the rest keep their
    times. The rate is the mean of the duration asked for. `recorded_s` is in order and within `span_s`.
    """

    def process(rate: float, span: Span, random: np.random.Generator) -> Coming:
        known = np.arange(recorded_count(recorded_s, span_s, span.duration_s))
        known_s = known // len(recorded_s) * span_s + recorded_s[known % len(recorded_s)]
        count = max(1, round(rate * span.duration_s))
        if count < len(known):
            rows = np.sort(random.choice(known, count, replace=False))
            return Coming(at_s=known_s[rows], rows=rows)
        places = np.arange(count) * (len(known) / count)
        at_s = np.interp(places, np.append(known, len(known)), np.append(known_s, span.duration_s))
        return Coming(at_s=at_s, rows=places.astype(np.int64))

    return process


def recorded_count(recorded_s: Floats, span_s: float, duration_s: float) -> int:
    """How many requests a trace that is played again and again has in so many seconds; at least 1."""
    passes, rest_s = divmod(duration_s, span_s)
    return max(1, int(passes) * len(recorded_s) + int(np.searchsorted(recorded_s, rest_s)))


def wander(num_steps: int, num_walks: int, spread: float, memory: float, random: np.random.Generator) -> Floats:
    """Walks[step, walk] around zero with this standard deviation, which forget themselves over `memory` steps."""
    keep = np.exp(-1 / memory)
    walks = random.normal(0.0, spread, (num_steps, num_walks))
    for step in range(1, num_steps):
        walks[step] = keep * walks[step - 1] + np.sqrt(1 - keep**2) * walks[step]
    return walks


def _day() -> Floats:
    half = (_CYCLE - 1) / (_CYCLE + 1)
    return 1 - half * np.cos(2 * np.pi * (np.arange(_NUM_MINUTES) + 0.5) / _NUM_MINUTES)


def _bent(weights: Floats, rate: float, span: Span, random: np.random.Generator) -> Coming:
    """Poisson arrivals over equal parts of the eight hours, of which each has its weight."""
    shares = np.concatenate([[0.0], np.cumsum(weights / weights.sum())])
    story = np.linspace(0.0, 1.0, len(shares))
    first, last = np.interp([span.begins, span.begins + span.lasts], story, shares)
    picks = first + (last - first) * np.sort(random.random(round(rate * span.duration_s)))
    return _numbered((np.interp(picks, shares, story) - span.begins) * (span.duration_s / span.lasts))


def _numbered(at_s: Floats) -> Coming:
    return Coming(at_s=at_s, rows=np.arange(len(at_s)))
