"""Our implementations as programs of many layers. Owns: their inputs and what one program holds. Does not: time them.

Layers take turns over copies of the pools and over the adapters that they use, so that no page is in the cache when it
is read. Every array is an argument and differs from layer to layer, so that XLA can neither share nor drop a layer.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.bank import NUM_PAGES, PAGES_OF_SLOT, Bank
from benchmarks.kernels.cases import ROWS, Case, Group
from pallas_kernels import mosaic_lora, ops, reference, tiles, triton_lora, xla_lora
from pallas_kernels.tiles import SET_PAGES
from pallas_kernels.work import LoraWork, padded

type Page = tuple[jax.Array, jax.Array]
type Update = Callable[[jax.Array, tuple[Page, ...], LoraWork], jax.Array]
"""(x[token, in], pages of each target, work) -> [token, out of every target]."""
type Outs = tuple[jax.Array, ...]
"""One array of every group of a layer, layer after layer."""

POOL_PAGES = NUM_PAGES + 1
"""Of one copy: page 0 is zeros."""


def _joined(lora: ops.Lora) -> Update:
    return lambda x, pages, work: jnp.concatenate(lora(x, pages, work), axis=1)


def _reference(x: jax.Array, pages: tuple[Page, ...], work: LoraWork) -> jax.Array:
    return jnp.concatenate([reference.grouped_lora(x, a, b, work) for a, b in pages], axis=1)


MOSAIC: Update = mosaic_lora.updates
TRITON: Update = triton_lora.updates
XLA, REFERENCE = _joined(xla_lora.grouped_lora), _reference


def work_of(case: Case, turn: int, is_padded: bool = False) -> LoraWork:
    """The work list of a case's turn-th round over the copies.

    `is_padded` gives every adapter the pages of the pool's largest rank, as servers do whose pools are padded; the
    pages past its own rank have weight 0, so that the result stays what it is.
    """
    page: list[int] = []
    start: list[int] = []
    weight: list[float] = []
    for run, slot in enumerate(case.slots(turn)):
        own = -(-case.rank_of_slot(slot) // ROWS)
        pages = PAGES_OF_SLOT if is_padded else own
        page += [1 + slot * PAGES_OF_SLOT + i for i in range(pages)]
        start += [run * case.tokens_each] * pages
        weight += [1.0] * own + [0.0] * (pages - own)
    size = (min(case.num_tokens, 32) * SET_PAGES,)
    work = LoraWork(
        page=padded(page, size, np.int32),
        start=padded(start, size, np.int32),
        count=padded([case.tokens_each] * len(page), size, np.int32),
        weight=padded(weight, size, np.float32),
        num_items=padded(len(page), (), np.int32),
    )
    return tiles.tiled(work, case.num_tokens, POOL_PAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The bank on the device: `copies` of every pool, one after the other in one array, as layers lie in the engine."""

    groups: tuple[Group, ...]
    pools: tuple[tuple[Page, ...], ...]
    """Of every group: a[copy * page, row, in] and b[copy * page, row, out] of each target."""
    x: dict[int, jax.Array]
    """x[token, in] by width, of the longest step."""

    @classmethod
    def of(cls, bank: Bank, copies: int) -> "Inputs":
        """Load the bank."""
        dtype = jnp.dtype(bank.dtype)

        def pool(kind: str, group: Group, target: int) -> jax.Array:
            values = jnp.asarray(bank.bits(kind, group, target).view(dtype))
            one = jnp.pad(values, ((1, 0), (0, 0), (0, 0)))
            return jnp.tile(one, (copies, 1, 1))

        return cls(
            groups=bank.groups,
            pools=tuple(
                tuple((pool("a", group, i), pool("b", group, i)) for i in range(len(group.widths_out)))
                for group in bank.groups
            ),
            x={group.width_in: jnp.asarray(bank.bits("x", group).view(dtype)) for group in bank.groups},
        )

    def arguments(self, case: Case, num_layers: int, has_base: bool, is_padded: bool = False) -> tuple[object, ...]:
        """What `program` takes for a case: pools, x and y of every copy, a work list of every turn."""
        copies = min(case.num_copies, num_layers)
        base = [jnp.ones((case.num_tokens, group.width_out), self.pools[0][0][0].dtype) for group in self.groups]
        works = [work_of(case, turn, is_padded) for turn in range(num_layers // copies)]
        return (
            self.pools,
            [{width: jnp.array(x[: case.num_tokens]) for width, x in self.x.items()} for _ in range(copies)],
            [[jnp.array(y) for y in base] for _ in range(copies)] if has_base else [],
            jax.tree.map(jnp.asarray, works),
        )


def program(
    groups: tuple[Group, ...], update: Update, compiler_options: Mapping[str, str] | None = None
) -> Callable[..., Outs]:
    """The jitted layers; where there are ys, the updates are added to them, as to what base layers give."""

    @functools.partial(jax.jit, compiler_options=compiler_options)
    def layers(
        pools: tuple[tuple[Page, ...], ...],
        xs: list[dict[int, jax.Array]],
        ys: list[list[jax.Array]],
        works: list[LoraWork],
    ) -> Outs:
        outs = []
        for work in works:
            for copy, x in enumerate(xs):
                own = work.shifted(copy * POOL_PAGES)
                for number, group in enumerate(groups):
                    out = update(x[group.width_in], pools[number], own)
                    outs.append(ys[copy][number] + out if ys else out)
        return tuple(outs)

    return layers
