"""How long prompts and answers are. Owns: fits to public traces, lengths taken from a trace. Does not: read files.

The fits are log-normal, by the mean and standard deviation of the logarithms, cut at the smallest length and the 99th
percentile of the trace, prompts and answers independent (correlation of their logarithms: 0.09 conv, -0.00 code):

| Azure LLM inference trace 2023 (CC-BY-4.0, Splitwise, ISCA'24) | mean | 10 % | 50 % | 90 % | of the fit |
|---|--:|--:|--:|--:|---|
| conv, 19 366 requests: prompt | 1155 | 207 | 1020 | 2734 | 1126, 215, 760, 2685 |
| conv: answer | 211 | 54 | 129 | 424 | 201, 50, 151, 454 |
| code, 8 819 requests: prompt | 2048 | 147 | 1469 | 5188 | 2026, 192, 1097, 6261 |
| code: answer | 28 | 7 | 13 | 55 | 23, 6, 16, 48 |
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.workloads.arrivals import Floats, Ints

type Lengths = Callable[[Ints, np.random.Generator], tuple[Ints, Ints]]
"""Rows of the arrivals -> prompt tokens and answer tokens of each."""

_STRIDE = 7919
"""How many rows further a request that stands for several looks for its next length."""


@dataclass(frozen=True, slots=True)
class _LogNormal:
    mean: float
    deviation: float
    least: int
    most: int

    def drawn(self, count: int, random: np.random.Generator) -> Ints:
        return _whole(random.lognormal(self.mean, self.deviation, count), self.least, self.most)


def _fitted(prompt: _LogNormal, output: _LogNormal) -> Lengths:
    def lengths(rows: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
        return prompt.drawn(len(rows), random), output.drawn(len(rows), random)

    return lengths


FITS: dict[str, Lengths] = {
    "conv": _fitted(_LogNormal(6.633, 0.985, 2, 4142), _LogNormal(5.019, 0.859, 7, 601)),
    "code": _fitted(_LogNormal(6.999, 1.360, 3, 7436), _LogNormal(2.788, 0.847, 6, 251)),
}
"""By the names of the flag."""


def recorded(prompt_tokens: Ints, output_tokens: Ints) -> Lengths:
    """Lengths of a trace in its order, from the start again where it ends; a prompt keeps its answer, 0 becomes 1.

    Where one recorded request stands for several, the further ones look elsewhere: long ones do not come in heaps.
    """

    def lengths(rows: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
        again = np.arange(len(rows)) - np.searchsorted(rows, rows)
        places = (rows + again * _STRIDE) % len(prompt_tokens)
        return np.maximum(prompt_tokens[places], 1), np.maximum(output_tokens[places], 1)

    return lengths


def scaled(lengths: Lengths, scale: float, context_tokens: int) -> Lengths:
    """All lengths times `scale`; then prompts, and only then answers, cut so that both fit into the context."""

    def fitting(rows: Ints, random: np.random.Generator) -> tuple[Ints, Ints]:
        prompt, output = lengths(rows, random)
        output = _whole(output * scale, 1, context_tokens - 1)
        return np.minimum(_whole(prompt * scale, 1, context_tokens), context_tokens - output), output

    return fitting


def _whole(values: Floats, least: int, most: int) -> Ints:
    return np.clip(np.rint(values), least, most).astype(np.int64)
