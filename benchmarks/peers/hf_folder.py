"""A GGUF file as a Hugging Face folder in bfloat16, by transformers, so that peers and ours read the same weights.

Owns: the conversion. Does not: use our own reader. `hf_folder.py GGUF DIR`, with the interpreter that `setup.sh` made.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(gguf: Path, out: Path) -> None:
    """Dequantise the weights into `out`, with config and tokenizer."""
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    config = read.config
    del config.quantization_config  # transformers will not save what it believes to be quantised
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
