"""Low-rank updates inside a layer. Owns: which pages a projection reads and how its update joins the base's output.

A layer is given a value that multiplies for it: `LayerAdapters` in a step with adapters, `NO_ADAPTERS` in a base-only
step, which is compiled without a trace of them.
"""

from dataclasses import dataclass
from typing import Protocol

import jax

from lorajax.spec import Target
from pallas_kernels.ops import Ops, Page
from pallas_kernels.work import LoraWork


class Adapters(Protocol):
    """How a layer multiplies by its weights."""

    def project(self, ops: Ops, x: jax.Array, kernel: jax.Array, *targets: Target) -> jax.Array:
        """x[token, in] by kernel[in, …], with the updates of its targets: [token, …], in float32 or x.dtype."""


@dataclass(frozen=True, slots=True)
class LayerAdapters:
    """The adapter pages and the step's work list, shifted to the pages of one layer."""

    pages: dict[Target, Page]
    work: LoraWork

    def project(self, ops: Ops, x: jax.Array, kernel: jax.Array, *targets: Target) -> jax.Array:
        """See `Adapters.project`. Source: Hu et al. 2021 (arXiv 2106.09685), eq. 3; alpha / rank is already in B."""
        return ops.adapted(ops, x, kernel, tuple(self.pages[target] for target in targets), self.work)


@dataclass(frozen=True, slots=True)
class NoAdapters:
    """A base-only step: nothing to add, nothing compiled."""

    def project(self, ops: Ops, x: jax.Array, kernel: jax.Array, *_targets: Target) -> jax.Array:
        """See `Adapters.project`."""
        return ops.project(x, kernel)


NO_ADAPTERS = NoAdapters()
