"""The bank as the peers hold it. Owns: their padded pools, inputs and outputs on the device. Runs with torch, no JAX.

Every adapter takes the pool's largest rank, zeros past its own, in as many copies as the case has.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.kernels.bank import Bank
from benchmarks.kernels.cases import MAX_RANK, NUM_SLOTS, Case, Group
from benchmarks.kernels.peer_modules import DEVICE


@dataclass(frozen=True)
class Layer:
    """One group of linear layers of one copy."""

    group: Group
    x: torch.Tensor  # [token, in]
    y: torch.Tensor  # [token, out of every target], which updates are added to
    a: Sequence[torch.Tensor]  # of each target [slot, rank, in], or one of all, packed as csgmv has it
    b: Sequence[torch.Tensor]  # of each target [slot, out, rank], or one of all

    @property
    def offsets(self) -> list[int]:
        """Where the columns of each target begin, and where the last one's end."""
        return [0, *np.cumsum(self.group.widths_out).tolist()]

    def copy(self) -> "Layer":
        """The same values elsewhere in memory."""
        return Layer(
            self.group, self.x.clone(), self.y.clone(), [one.clone() for one in self.a], [one.clone() for one in self.b]
        )


def ranks(case: Case) -> list[int]:
    """Rank of each slot."""
    return [case.rank_of_slot(slot) for slot in range(case.num_slots)]


def slot_of_token(case: Case, turn: int) -> list[int]:
    """Slot of each live token, ascending, as the runs are."""
    return [slot for slot in case.slots(turn) for _ in range(case.tokens_each)]


def layers(bank: Bank, case: Case, is_packed: bool) -> list[list[Layer]]:
    """Of each copy, its groups' layers; `is_packed` has the ranks of all targets one after the other in one A."""
    first = [_layer(bank, case, group, is_packed) for group in bank.groups]
    return [first, *([one.copy() for one in first] for _ in range(case.num_copies - 1))]


@functools.cache
def _pages(bank: Bank, kind: str, group: Group, target: int) -> torch.Tensor:
    """[slot, rank, column] of the bank, once on the device."""
    pages = _on_device(bank.bits(kind, group, target), getattr(torch, bank.dtype))  # a name of torch's own
    return pages.reshape(NUM_SLOTS, MAX_RANK, -1)


def _layer(bank: Bank, case: Case, group: Group, is_packed: bool) -> Layer:
    dtype = getattr(torch, bank.dtype)

    def held(kind: str, target: int) -> torch.Tensor:
        out = _pages(bank, kind, group, target)[: case.num_slots].clone()
        for slot, rank in enumerate(ranks(case)):
            out[slot, rank:] = 0
        return out

    targets = range(len(group.widths_out))
    a = [held("a", target) for target in targets]
    b = [held("b", target).transpose(1, 2).contiguous() for target in targets]
    x = _on_device(bank.bits("x", group)[: case.num_tokens], dtype)
    y = torch.ones(case.num_tokens, group.width_out, dtype=dtype, device=DEVICE)
    return Layer(group, x, y, [_packed(a, case)], [torch.cat(b, dim=1)]) if is_packed else Layer(group, x, y, a, b)


def _packed(a: Sequence[torch.Tensor], case: Case) -> torch.Tensor:
    out = a[0].new_zeros(case.num_slots, len(a) * MAX_RANK, a[0].shape[2])
    for slot, rank in enumerate(ranks(case)):
        for target, one in enumerate(a):
            out[slot, target * rank : (target + 1) * rank] = one[slot, :rank]
    return out


def _on_device(bits: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.array(bits).view(np.int16)).view(dtype).to(DEVICE)


def ints(values: Sequence[int]) -> torch.Tensor:
    """int32 on the device."""
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)
