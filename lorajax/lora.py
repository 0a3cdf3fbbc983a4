"""Low-rank updates inside a layer. Owns: which pages a projection reads and how its update joins the base's output.

A layer is given a value that adds its adapters' updates: `LayerAdapters` in a step with adapters, `NO_ADAPTERS` in a
base-only step, which is compiled without a trace of them.
"""

from dataclasses import dataclass
from typing import Protocol

import jax

from lorajax.spec import Target
from pallas_kernels.ops import Lora, Page
from pallas_kernels.work import LoraWork


class Adapters(Protocol):
    """What a projection asks of the adapters of its layer."""

    def updates(self, x: jax.Array, *targets: Target) -> tuple[jax.Array, ...] | None:
        """One float32 [token, out] for each target that reads x[token, in]; None if there is nothing to add."""


@dataclass(frozen=True, slots=True)
class LayerAdapters:
    """The adapter pages and the step's work list, shifted to the pages of one layer."""

    pages: dict[Target, Page]
    work: LoraWork
    lora: Lora

    def updates(self, x: jax.Array, *targets: Target) -> tuple[jax.Array, ...]:
        """See `Adapters.updates`. Source: Hu et al. 2021 (arXiv 2106.09685), eq. 3; alpha / rank is already in B."""
        return self.lora(x, tuple(self.pages[target] for target in targets), self.work)


@dataclass(frozen=True, slots=True)
class NoAdapters:
    """A base-only step: nothing to add, nothing compiled."""

    def updates(self, x: jax.Array, *targets: Target) -> None:
        """See `Adapters.updates`."""


NO_ADAPTERS = NoAdapters()
