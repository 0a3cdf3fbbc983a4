"""transformers with PEFT on the shared work: one `generate` with an adapter per row.

Owns: its settings. Does not: time or compare.
`python -m benchmarks.peers.hf_peft --help`, with the interpreter that `setup.sh` made; the lines are in `protocol`.
"""

import os
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.peers import protocol

BASE = "__base__"  # PEFT's name for a row without an adapter


class StepClock(StoppingCriteria):  # type: ignore[misc]  # not there where types are checked
    """Notes the time after each step and never stops."""

    def __init__(self) -> None:
        self.clocks_s: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """Note one step."""
        self.clocks_s.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Left-padded ids and their mask."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def load(work: protocol.Work) -> protocol.RunBatch:
    """Load the base in bfloat16 and, where given, every adapter beside it."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.bfloat16).eval()
    for i, (name, folder) in enumerate(work.adapters.items()):
        if i == 0:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        else:
            model.load_adapter(str(folder), adapter_name=name)
    model.eval()
    inputs = padded(work.prompts)
    limits = {"max_new_tokens": work.new_tokens, "min_new_tokens": work.new_tokens, "do_sample": False}

    def run(names: list[str | None]) -> tuple[list[list[int]], list[float]]:
        clock = StepClock()
        mixed = {"adapter_names": [name or BASE for name in names]} if work.adapters else {}
        with torch.inference_mode():
            out = model.generate(**inputs, **limits, **mixed, stopping_criteria=StoppingCriteriaList([clock]))
        return out[:, inputs["input_ids"].shape[1] :].tolist(), clock.clocks_s

    return run


if __name__ == "__main__":
    protocol.serve(load, protocol.parse(__doc__))
