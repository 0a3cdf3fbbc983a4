"""The peers' modules, imported alone. Owns: stand-ins for what they import from the rest of their packages.

Does not: call them. Runs in a Python with torch and triton, 3.11 or later. Where triton interprets, on a machine
without a GPU, the stand-ins say that there is none.
"""

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import triton
import triton.language as tl

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

_VLLM = "vllm.lora.ops.triton_ops."
_DENSE, _COMMON = "sglang.kernels.ops.lora.dense.", "sglang.kernels.ops.lora.common."


class _Off:
    """One of SGLang's switches, as it is where nobody sets it."""

    def get(self) -> bool:
        return False


def _refuse(**_registration: object) -> None:
    raise AttributeError("no torch op is registered: its function is called itself")


def _to_device(values: list[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def _stand_in(name: str, **contents: object) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)


def _packages(root: Path, *names: str) -> None:
    """Empty packages whose modules are looked for under `root`; their own `__init__` imports half the engine."""
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            package = ".".join(parts[:depth])
            if package not in sys.modules:
                _stand_in(package, __path__=[str(root.joinpath(*parts[:depth]))])


def vllm(root: Path) -> SimpleNamespace:
    """Shrink, expand, metadata and pointer tables of vLLM."""
    is_cuda = DEVICE == "cuda"
    _packages(root, _VLLM.rstrip("."), "vllm.utils")
    _stand_in(
        "vllm.envs",
        VLLM_BATCH_INVARIANT=False,
        VLLM_TUNED_CONFIG_FOLDER=None,
        VLLM_LORA_ENABLE_DUAL_STREAM=False,
        VLLM_LORA_DISABLE_PDL=False,
    )
    log = logging.getLogger("vllm")
    quiet = SimpleNamespace(warning_once=log.debug, info_once=log.debug)
    _stand_in("vllm.logger", init_logger=lambda _name: quiet)
    platform = SimpleNamespace(
        is_cuda=lambda: is_cuda,
        is_rocm=lambda: False,
        is_xpu=lambda: False,
        has_device_capability=lambda least: is_cuda and torch.cuda.get_device_capability() >= divmod(least, 10),
        is_device_capability=lambda exact: is_cuda and torch.cuda.get_device_capability() == divmod(exact, 10),
    )
    _stand_in("vllm.platforms", current_platform=platform)
    _stand_in("vllm.triton_utils", tl=tl, triton=triton)
    _stand_in("vllm.utils.math_utils", next_power_of_2=triton.next_power_of_2)
    _stand_in("vllm.utils.torch_utils", direct_register_custom_op=_refuse, async_tensor_h2d=_to_device)
    return SimpleNamespace(
        shrink=importlib.import_module(_VLLM + "lora_shrink_op"),
        expand=importlib.import_module(_VLLM + "lora_expand_op"),
        metadata=importlib.import_module(_VLLM + "lora_kernel_metadata"),
        utils=importlib.import_module(_VLLM + "utils"),
    )


def sglang(root: Path) -> SimpleNamespace:
    """SGLang's modules: csgmv's shrink and expand, triton_v2's A and B."""
    _packages(root, _DENSE.rstrip("."), _COMMON.rstrip("."), "sglang.srt.lora", "sglang.kernels.ops.lora.moe")
    off = _Off()
    envs = SimpleNamespace(SGLANG_ENABLE_LORA_CSGMV_SPLIT_K=off, SGLANG_ENABLE_DETERMINISTIC_INFERENCE=off)
    _stand_in("sglang.srt.environ", envs=envs)
    _stand_in("sglang.srt.lora.utils", LoRABatchInfo=object)
    _stand_in(
        "sglang.srt.utils",
        cached_triton_kernel=lambda *_key, **_options: lambda kernel: kernel,
        get_device_name=lambda: torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
    )
    _stand_in("sglang.kernels.ops.lora.moe.virtual_experts", _align_block_size_jit=None)
    kinds = SimpleNamespace(ALIGNED="aligned", RAW="raw")
    _stand_in("sglang.kernels.ops.lora.common.route_view", RouteView=object, RouteViewKind=kinds)
    return SimpleNamespace(
        csgmv_shrink=importlib.import_module(_DENSE + "chunked_sgmv_shrink"),
        csgmv_expand=importlib.import_module(_DENSE + "chunked_sgmv_expand"),
        a=importlib.import_module(_COMMON + "lora_a"),
        b=importlib.import_module(_COMMON + "lora_b"),
        plans=root / "sglang/srt/lora/dense/configs/sm90.plans.json",
    )
