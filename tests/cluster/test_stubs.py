"""The generated gRPC code is that of the two protos."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_committed_stubs_are_what_the_proto_generates(tmp_path):
    # In a process of its own: protoc may register nothing here, and says what is wrong on its standard error.
    subprocess.run([sys.executable, ROOT / "scripts/generate_stubs.py", tmp_path], check=True)
    for name in (
        f"{proto}{end}" for proto in ("serving", "control") for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    ):
        assert (ROOT / "cluster" / name).read_text() == (tmp_path / "cluster" / name).read_text(), name
