"""vLLM's CPU build on the shared work, through its offline `LLM`.

Owns: its settings. Does not: time or compare.
`python -m benchmarks.peers.vllm_cpu --help`, with the interpreter that `setup.sh` made; the lines are in `protocol`.
"""

import os
import time

from benchmarks.peers import protocol

# Before vLLM is imported: it reads its environment then. Ours only where the caller set nothing.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
}.items():
    os.environ.setdefault(_name, _value)

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402

MAX_RANK = 128  # what a server must allow that any of our ranks may come


def load(work: protocol.Work) -> protocol.RunBatch:
    """Start vLLM as users do: bfloat16, compiled unless told otherwise, adapters enabled only where some are given."""
    llm = LLM(
        model=str(work.model),
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=len(work.prompts),
        enforce_eager=work.eager,
        enable_prefix_caching=False,  # the prompts come again in every repeat
        enable_lora=bool(work.adapters),
        max_lora_rank=MAX_RANK,
        max_loras=max(1, len(work.adapters)),
    )
    engine = llm.llm_engine
    sampling = SamplingParams(temperature=0.0, max_tokens=work.new_tokens, ignore_eos=True)
    loras = {name: LoRARequest(name, i + 1, str(folder)) for i, (name, folder) in enumerate(work.adapters.items())}
    served = 0

    def run(names: list[str | None]) -> tuple[list[list[int]], list[float]]:
        nonlocal served
        done: dict[str, list[int]] = {}
        clocks_s = []
        for prompt, name in zip(work.prompts, names, strict=True):
            lora = loras[name] if name else None
            engine.add_request(str(served), {"prompt_token_ids": prompt}, sampling, lora_request=lora)
            served += 1
        # LLM.generate's own loop, with a clock.
        while engine.has_unfinished_requests():
            done |= {out.request_id: list(out.outputs[0].token_ids) for out in engine.step() if out.finished}
            clocks_s.append(time.perf_counter())
        return [done[key] for key in sorted(done, key=int)], clocks_s

    return run


if __name__ == "__main__":
    protocol.serve(load, protocol.parse(__doc__))
