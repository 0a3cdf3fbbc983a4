"""The peers' own kernels, interpreted on small layers, give our reference's numbers.

Skipped without their files (`python -m benchmarks kernels --fetch-peers`) or a Python with torch and triton, which
PEERS_PYTHON names; triton's interpreter wants a numpy below 2.4.
"""

import os
from pathlib import Path

import pytest

from benchmarks.kernels import peer_files
from benchmarks.kernels.check import peer_errors, toy_bank

FILES = Path(__file__).resolve().parents[3] / ".cache" / "kernel-peers"


@pytest.mark.slow
def test_peers_agree_with_the_reference(tmp_path):
    if lacking := peer_files.missing(FILES):
        pytest.skip(f"no {lacking[0]} in .cache/kernel-peers: python -m benchmarks kernels --fetch-peers")
    if not (python := os.environ.get("PEERS_PYTHON")):
        pytest.skip("PEERS_PYTHON names no Python with torch and triton")
    bank = toy_bank(tmp_path, "float16", seed=0)  # of bfloat16 triton's interpreter makes something else
    rows = list(peer_errors(bank, FILES, Path(python)))
    assert len(rows) == 8
    assert [name for name, error, allowed in rows if not error <= allowed] == []
