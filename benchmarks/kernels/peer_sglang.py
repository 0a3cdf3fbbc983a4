"""SGLang's LoRA kernels as its backends call them: csgmv and triton_v2. Owns: routes, plans, buffers.

Does not: time them. Routes are made once for a step, as SGLang does; so they are not in the time.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.kernels.cases import MAX_RANK, Case, Group
from benchmarks.kernels.peer_modules import DEVICE
from benchmarks.kernels.peer_pools import Layer, ints, ranks, slot_of_token

Run = Callable[[Layer, int], None]
"""(layer, turn): add the updates to the layer's y."""
_A_TILES = {"BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 8, "num_warps": 4, "num_stages": 3}
_B_TILES = {"BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 8, "num_warps": 4, "num_stages": 2}


def _runs(case: Case, turn: int, most: int) -> list[tuple[int, int]]:
    """(slot, tokens) of each piece of at most so many tokens of one adapter."""
    return [
        (slot, min(most, case.tokens_each - done))
        for slot in case.slots(turn)
        for done in range(0, case.tokens_each, most)
    ]


@dataclass(frozen=True)
class Csgmv:
    """The chunked kernels; pools are packed."""

    modules: SimpleNamespace
    chunk: int
    """Tokens that are multiplied together; a server's default is 16."""
    split_k: int = 1

    def bound(self, case: Case, groups: Sequence[Group]) -> Run:
        """How a layer of the case is run."""
        batches = [self._batch(case, turn) for turn in range(case.num_turns)]
        offsets = {group: ints([0, *torch.tensor(group.widths_out).cumsum(0).tolist()]) for group in groups}

        def run(layer: Layer, turn: int) -> None:
            batch, widths = batches[turn % len(batches)], layer.group.widths_out
            h = self.modules.csgmv_shrink.chunked_sgmv_lora_shrink_forward(
                layer.x, layer.a[0], batch, len(widths), split_k=self.split_k
            )
            self.modules.csgmv_expand.chunked_sgmv_lora_expand_forward(
                h,
                layer.b[0],
                batch,
                offsets[layer.group],
                max(widths),
                layer.y,
                slice_offsets_cpu=torch.tensor(layer.offsets),
            )

        return run

    def _batch(self, case: Case, turn: int) -> SimpleNamespace:
        runs = _runs(case, turn, self.chunk)
        ends = torch.tensor([0, *(tokens for _, tokens in runs)]).cumsum(0).tolist()
        return SimpleNamespace(
            use_cuda_graph=False,
            num_segments=len(runs),
            max_len=self.chunk,
            seg_indptr=ints(ends),
            weight_indices=ints([slot for slot, _ in runs]),
            lora_ranks=ints(ranks(case)),
            scalings=torch.ones(case.num_slots, device=DEVICE),
            permutation=ints(range(case.live_tokens)),
        )


@dataclass(frozen=True)
class _Route:
    """What triton_v2's kernels read of a step, in blocks of `block_size` rows of one adapter."""

    token_slots: torch.Tensor
    block_size: int
    sorted_pair_ids: torch.Tensor
    block_bucket_ids: torch.Tensor
    num_pairs_post_padded: torch.Tensor
    max_loras: int
    group_ids: None = None
    groups_per_slot: int = 1
    width: int = 1

    @property
    def num_rows(self) -> int:
        return self.token_slots.numel()

    @property
    def kernel_groups(self) -> torch.Tensor:
        return self.token_slots

    @classmethod
    def of(cls, case: Case, turn: int, block: int) -> "_Route":
        slots, rows, blocks = slot_of_token(case, turn), [], []
        nobody = case.num_tokens
        for slot in case.slots(turn):
            mine = [token for token, other in enumerate(slots) if other == slot]
            rows += mine + [nobody] * (-len(mine) % block)
            blocks += [slot] * -(-len(mine) // block)
        count = len(rows)
        room = -(-(case.num_tokens + min(case.num_slots, case.num_tokens) * (block - 1)) // block)
        rows += [nobody] * (room * block - count)
        blocks += [-1] * (room - len(blocks))
        all_slots = slots + [-1] * (case.num_tokens - len(slots))
        return cls(ints(all_slots), block, ints(rows), ints(blocks), ints([count]), case.num_slots)


@dataclass(frozen=True)
class TritonV2:
    """The kernels that SGLang's plans for this chip choose; pools are packed."""

    modules: SimpleNamespace
    _made: dict[Any, Any] = field(default_factory=dict, init=False)
    """Routes, geometries and buffers by what they depend on, as SGLang keeps them between layers."""

    def bound(self, case: Case, groups: Sequence[Group]) -> Run:
        """How a layer of the case is run."""
        plans = {group: self.plan(case, group) for group in groups}
        live_ranks, scalings = ints(ranks(case)), torch.ones(case.num_slots, device=DEVICE)

        def run(layer: Layer, turn: int) -> None:
            plan = plans[layer.group]
            at = (case, turn % case.num_turns, plan["block_size"])
            route = self._once(at, lambda: _Route.of(*at))
            bridge, options = self._shrink(layer, plan, route, live_ranks)
            expand = self.modules.b.grouped_lora_b if plan["b_family"] == "grouped" else self.modules.b.per_row_lora_b
            expand(
                bridge,
                layer.b[0],
                layer.y,
                route,
                geometry=self._geometry(layer.offsets, plan["b_tiles"]["BLOCK_SIZE_N"]),
                config=plan["b_tiles"],
                add_inplace=True,
                zero_sentinel=False,
                lora_ranks=live_ranks,
                scalings=scalings,
                **options,
            )

        return run

    def _shrink(
        self, layer: Layer, plan: dict[str, Any], route: _Route, live_ranks: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """(what it leaves, how expand must read that)."""
        x, a, config, stack = layer.x, layer.a[0], plan["a_tiles"], len(layer.group.widths_out)
        rows, width = x.shape[0], a.shape[1]
        if plan["a_family"] == "all_slots":
            flat = self._buffer((rows, a.shape[0] * width), x.dtype)
            torch.matmul(x, a.reshape(a.shape[0] * width, -1).t(), out=flat)
            return flat.view(rows, a.shape[0], width).transpose(0, 1), {"slot_planes": True}
        bridge = self._buffer((rows, width), x.dtype)
        if plan["a_family"] == "per_row":
            self.modules.a.per_row_lora_a(x, a, bridge, route, config=config, stack=stack)
            return bridge, {}
        splits = config.get("SPLIT_K", 1)
        sums = {}
        if splits > 1:
            sums["partial"] = self._buffer((splits, rows, width), torch.float32)
            tiles = len(route.block_bucket_ids) * -(-width // config["BLOCK_SIZE_N"])
            sums["counters"] = self._buffer((tiles,), torch.int32)
        self.modules.a.grouped_lora_a(
            x, a, bridge, route, config=config, pair_input=True, lora_ranks=live_ranks, stack=stack, **sums
        )
        if splits > 1 and config.get("SPLIT_MODE", "serial") == "planes":
            return sums["partial"], {"planes": splits}
        return bridge, {}

    def plan(self, case: Case, group: Group) -> dict[str, Any]:
        """The first row of SGLang's table that fits, else its default."""
        sizes = {
            "max_tokens": case.num_tokens,
            "max_rank": MAX_RANK,
            "min_in_features": group.width_in,
            "max_in_features": group.width_in,
            "min_out_features": group.width_out,
            "max_out_features": group.width_out,
        }
        phase = "prefill" if case.is_prefill else "decode"

        def fits(row: dict[str, Any]) -> bool:
            if row.get("phase", phase) != phase or "linear" not in row.get("kinds", ["linear"]):
                return False
            bounds = {name: row[name] for name in sizes if row.get(name) is not None}
            return all(
                sizes[name] >= bound if name.startswith("min") else sizes[name] <= bound
                for name, bound in bounds.items()
            )

        default = (
            {"block_size": 64, "b_tiles": {**_B_TILES, "BLOCK_SIZE_N": 64, "num_warps": 8}}
            if case.is_prefill
            else {"block_size": 16, "a_tiles": {**_A_TILES, "SPLIT_K": 4}}
        )
        chosen = next((row["spec"] for row in self._rows if fits(row)), default)
        families = {"a_family": "grouped", "b_family": "grouped", "block_size": 16}
        return {**families, "a_tiles": _A_TILES, "b_tiles": _B_TILES, **chosen}

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return json.loads(self.modules.plans.read_text())["rows"]

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - what is made is the peer's
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self._once((shape, dtype), lambda: torch.zeros(shape, dtype=dtype, device=DEVICE))

    def _geometry(self, offsets: list[int], block: int) -> object:
        """Where tiles of columns lie; SGLang's own function insists on a GPU."""

        def make() -> object:
            widths = [high - low for low, high in pairwise(offsets)]
            uniform = widths[0] if len(set(widths)) == 1 else 0
            starts = offsets[:-1]
            stride = starts[1] if len(starts) > 1 else uniform
            is_regular = all(start == number * stride for number, start in enumerate(starts))
            return self.modules.b.SliceGeometry(
                slice_offsets=ints(offsets),
                out_offsets=ints(starts),
                num_slices=len(widths),
                num_column_tiles=sum(-(-width // block) for width in widths),
                uniform_width=uniform,
                out_stride=stride if is_regular else 0,
                full_tiles=all(width % block == 0 for width in widths),
                block_size_n=block,
            )

        return self._once(("geometry", *offsets, block), make)
