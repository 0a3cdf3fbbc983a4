"""Generates the gRPC stubs of cluster/*.proto. Owns: how. Does not: decide when (a test compares them).

Run `python scripts/generate_stubs.py` after an edit of either, with the grpcio-tools that pyproject.toml pins.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ("cluster/serving.proto", "cluster/control.proto")


def generate(folder: Path) -> None:
    """Write `<proto>_pb2.py`, `.pyi` and `_grpc.py` of each proto under a folder.

    Raises: RuntimeError if the compiler refuses a proto; its own message is on standard error.
    """
    google = files("grpc_tools") / "_proto"
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    arguments = ["protoc", f"-I{ROOT}", f"-I{google}", *outputs, *PROTOS]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc refused a proto; see its message above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
