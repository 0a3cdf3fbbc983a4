"""The peers' process on the device: each of their kernels on each case, first its numbers, then its time.

Owns: graphs, events, the search for vLLM's best configuration. Does not: judge. Needs torch and triton, no JAX:
`python -m benchmarks.kernels.peer_worker …`; the lines that it prints are in `turns`.
"""

import argparse
import functools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import triton

from benchmarks.kernels import peer_modules, peer_pools
from benchmarks.kernels.bank import TOLERANCE, Bank, error_of
from benchmarks.kernels.cases import Case, Group
from benchmarks.kernels.peer_pools import Layer
from benchmarks.kernels.peer_sglang import Csgmv, TritonV2
from benchmarks.kernels.peer_vllm import CANDIDATES, FEW_PROGRAMS, Config, Run, Vllm
from benchmarks.kernels.turns import Found, Task, serve

_TASK_S, _SEARCH_S = 90.0, 40.0
_ROUNDS, _ROUND_MS, _MOST_REPLAYS = 7, 40.0, 100
_CHUNK = 16
"""Tokens of csgmv's pieces: a server's default."""
SEARCHED = {"decode-mixed": False, "prefill-2048": True}
"""Cases on which vLLM's configurations are searched, for all decoding and all prefill ones."""


PADDED, PACKED = False, True
"""How a pool holds the ranks of several targets: each padded, or the live ones together."""


class Kernels(Protocol):
    """One of the peers' implementations."""

    def bound(self, case: Case, groups: Sequence[Group]) -> Run:
        """How a layer of the case is run."""


class Pools:
    """The pools of one case at a time, in either packing.

    Invariant: pools of at most one case and packing are on the device.
    Owner: the process that measures.
    """

    def __init__(self, bank: Bank) -> None:
        """Hold none yet."""
        self.bank = bank
        self.layers = functools.lru_cache(maxsize=1)(self._made)

    def _made(self, case: Case, is_packed: bool) -> list[list[Layer]]:
        return peer_pools.layers(self.bank, case, is_packed)

    def layer(self, case: Case, is_packed: bool, number: int) -> tuple[list[Layer], int]:
        """(the groups of the number-th layer, whose turn it is)."""
        copies = self.layers(case, is_packed)
        return copies[number % len(copies)], number // len(copies)


def tasks(bank: Bank, root: Path) -> Iterator[Task]:
    """Everything, case by case, those with a goal first."""
    pools = Pools(bank)
    vllm, sglang = peer_modules.vllm(root), peer_modules.sglang(root)
    tuned = {is_prefill: Vllm(vllm, {}) for is_prefill in (False, True)}
    few = {} if peer_modules.DEVICE == "cuda" else {("shrink", group.name): FEW_PROGRAMS for group in bank.groups}
    plain = Vllm(vllm, few)
    yield Task("peers", _TASK_S, _facts)
    for case in sorted(bank.cases, key=lambda case: case.name in ("decode-r8", "decode-r128")):
        measure = functools.partial(_measure, pools, case)
        yield Task(f"{case.name}/vllm", _TASK_S, functools.partial(measure, plain, PADDED))
        if case.name in SEARCHED and peer_modules.DEVICE == "cuda":
            search = functools.partial(_search, pools, case, tuned[case.is_prefill])
            yield Task(f"{case.name}/vllm search", _TASK_S, search)
        if tuned[case.is_prefill].configs:
            yield Task(f"{case.name}/vllm tuned", _TASK_S, functools.partial(measure, tuned[case.is_prefill], PADDED))
        forms: dict[str, Kernels] = {"csgmv": Csgmv(sglang, _CHUNK), "triton_v2": TritonV2(sglang)}
        if case.is_prefill:
            forms["csgmv, chunks of 128"] = Csgmv(sglang, 128)
        else:
            forms["csgmv, split 8"] = Csgmv(sglang, _CHUNK, split_k=8)
        for name, kernels in forms.items():
            yield Task(f"{case.name}/{name}", _TASK_S, functools.partial(measure, kernels, PACKED))


def _facts() -> Found:
    names = {"torch": torch.__version__, "triton": triton.__version__, "peers' python": platform.python_version()}
    return {"versions": names, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}


def _measure(pools: Pools, case: Case, kernels: Kernels, is_packed: bool) -> Found:
    run = kernels.bound(case, pools.bank.groups)
    first, _ = pools.layer(case, is_packed, 0)
    for layer in first:
        layer.y.fill_(1)
        run(layer, 0)
    rows = case.checked_rows()
    actual = [layer.y[rows].float().cpu().numpy() for layer in first]
    error = error_of(actual, [pools.bank.wanted(case, group) + np.float32(1) for group in pools.bank.groups])
    if not error <= TOLERANCE[pools.bank.dtype]:
        return {"relative_error": error, "error": f"differs from the reference by {error:.2g}"}
    if peer_modules.DEVICE == "cpu":
        return {"relative_error": error}

    def program() -> None:
        for number in range(case.num_layers):
            layers, turn = pools.layer(case, is_packed, number)
            for layer in layers:
                run(layer, turn)

    return {"relative_error": error, **_timed(program, case.num_layers)}


def _timed(program: Callable[[], None], parts: int) -> dict[str, Any]:
    """Microseconds of one of the parts of a program, captured as one graph and replayed."""
    program()  # compiles, and makes what may not be made while a graph is captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        program()
    first_ms = min(_replayed_ms(graph, 1) for _ in range(3))
    replays = int(np.clip(_ROUND_MS / first_ms, 1, _MOST_REPLAYS))
    times_us = np.array([_replayed_ms(graph, replays) for _ in range(_ROUNDS)]) / (replays * parts) * 1e3
    low, median, high = map(float, np.quantile(times_us, (0.25, 0.5, 0.75)))
    return {"us": median, "us_low": low, "us_high": high, "calls": replays, "rounds": _ROUNDS}


def _replayed_ms(graph: torch.cuda.CUDAGraph, replays: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _search(pools: Pools, case: Case, tuned: Vllm) -> Found:
    """Give vLLM the fastest configuration of each launch that is found in the time there is."""
    stop_s = time.perf_counter() + _SEARCH_S
    tried: list[dict[str, Any]] = []
    for number, group in sorted(enumerate(pools.bank.groups), key=lambda pair: -pair[1].width_out):
        best_us, best = _group_us(pools, case, tuned, number), dict(tuned.configs)
        for op, configs in CANDIDATES[case.is_prefill].items():
            for config in configs:
                if time.perf_counter() > stop_s:
                    break
                tuned.configs[op, group.name] = config
                us = _group_us(pools, case, tuned, number)
                tried.append({"op": op, "group": group.name, **config, "us": us})
                if us < best_us:
                    best_us, best = us, dict(tuned.configs)
            _restore(tuned.configs, best)
    chosen = {f"{op}, {group}": config for (op, group), config in tuned.configs.items()}
    return {"chosen": chosen, "tried": tried, "was_cut_short": time.perf_counter() > stop_s}


def _restore(configs: dict[tuple[str, str], Config], best: dict[tuple[str, str], Config]) -> None:
    configs.clear()
    configs.update(best)


def _group_us(pools: Pools, case: Case, vllm: Vllm, number: int) -> float:
    """Of one group of a layer; infinite where the configuration does not compile or launch."""
    run = vllm.bound(case, pools.bank.groups)

    def program() -> None:
        for place in range(case.num_copies):
            layers, turn = pools.layer(case, PADDED, place)
            run(layers[number], turn)

    try:
        return float(_timed(program, case.num_copies)["us"])
    except Exception:  # noqa: BLE001 - triton's own errors are many
        return float("inf")


def main() -> None:
    """Serve the tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=Path, required=True, help="bank.json")
    parser.add_argument("--files", type=Path, required=True, help="folder of the peers' files")
    parser.add_argument("--skip", default="", help="names of tasks, with | between")
    args = parser.parse_args()
    serve(tasks(Bank.load(args.bank), args.files), args.skip.split("|"))


if __name__ == "__main__":
    main()
