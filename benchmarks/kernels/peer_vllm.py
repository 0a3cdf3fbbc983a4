"""vLLM's LoRA kernels as a layer calls them. Owns: metadata, buffers, configurations to try. Does not: time them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.kernels.cases import MAX_RANK, Case, Group
from benchmarks.kernels.peer_modules import DEVICE
from benchmarks.kernels.peer_pools import Layer, ints, slot_of_token

Config = dict[str, Any]
"""What vLLM's own tables hold for one launch."""
Run = Callable[[Layer, int], None]
"""(layer, turn): add the updates to the layer's y."""


def _config(block_m: int, block_n: int, block_k: int, warps: int, stages: int, **more: int) -> Config:
    blocks = {"block_m": block_m, "block_n": block_n, "block_k": block_k}
    return {**blocks, "num_warps": warps, "num_stages": stages, "num_ctas": 1, "max_nreg": None, **more}


def _shrink(block_m: int, block_n: int, block_k: int, split_k: int, warps: int, stages: int) -> Config:
    return _config(block_m, block_n, block_k, warps, stages, split_k=split_k, group_size_m=8)


CANDIDATES: dict[bool, dict[str, Sequence[Config]]] = {
    False: {
        "shrink": (
            _shrink(16, 16, 256, 16, 4, 2),
            _shrink(16, 32, 256, 8, 4, 3),
            _shrink(16, 64, 128, 8, 4, 4),
            _shrink(16, 128, 128, 16, 8, 3),
        ),
        "expand": (
            _config(16, 128, 32, 4, 2),
            _config(16, 128, 128, 4, 2),
            _config(16, 256, 64, 8, 2),
            _config(16, 64, 128, 4, 3),
        ),
    },
    True: {
        "shrink": (
            _shrink(64, 64, 64, 8, 4, 3),
            _shrink(64, 128, 64, 4, 8, 3),
            _shrink(128, 128, 64, 2, 8, 3),
            _shrink(128, 64, 64, 4, 8, 4),
        ),
        "expand": (
            _config(64, 128, 32, 4, 2),
            _config(64, 128, 128, 4, 2),
            _config(128, 128, 64, 8, 2),
            _config(64, 256, 64, 8, 2),
        ),
    },
}
"""By whether the case is a prefill, beside vLLM's own default."""
FEW_PROGRAMS = _shrink(16, 128, 128, 1, 4, 2)
"""For shrink where it is interpreted, program by program: the default's 64 splits take minutes."""


@dataclass(frozen=True)
class Vllm:
    """The kernels with one configuration of each group: none is vLLM's default."""

    modules: SimpleNamespace
    configs: dict[tuple[str, str], Config]
    """By (shrink or expand, group)."""

    def bound(self, case: Case, groups: Sequence[Group]) -> Run:
        """How a layer of the case is run; everything that a step shares is made here, as vLLM makes it once a step."""
        # Tables of pointers to pools that may be gone; they would also keep those alive.
        self.modules.utils._LORA_A_PTR_DICT.clear()
        self.modules.utils._LORA_B_PTR_DICT.clear()
        metadata = [self._metadata(case, turn) for turn in range(case.num_turns)]
        h = {
            group: torch.empty(len(group.widths_out), case.num_tokens, MAX_RANK, dtype=torch.float32, device=DEVICE)
            for group in groups
        }

        def run(layer: Layer, turn: int) -> None:
            self._choose(layer.group)
            meta = metadata[turn % case.num_turns]
            self.modules.shrink.lora_shrink(layer.x, layer.a, h[layer.group], *meta, 1.0)
            self.modules.expand.lora_expand(h[layer.group], layer.b, layer.y, *meta, offset_start=0, add_inputs=True)

        return run

    def _metadata(self, case: Case, turn: int) -> tuple[torch.Tensor, ...]:
        slots = slot_of_token(case, turn)
        slots += [-1] * (case.num_tokens - len(slots))
        made = self.modules.metadata.LoRAKernelMeta.make(case.num_slots, case.num_tokens, DEVICE)
        made.prepare_tensors(ints(slots))
        return made.meta_args(case.num_tokens, specialize_active_lora=True)

    def _choose(self, group: Group) -> None:
        """Have vLLM find our configuration where it looks for its own."""
        for op in ("shrink", "expand"):
            module = getattr(self.modules, op)
            default = vars(module).setdefault("default_configs", module.get_lora_op_configs)
            chosen = self.configs.get((op, group.name))
            module.get_lora_op_configs = default if chosen is None else lambda *_, found=chosen, **__: found
