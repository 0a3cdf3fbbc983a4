"""The cluster of `lorajax demo`. Owns: its cluster.toml and the command that starts it. Does not: run it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lorajax.bundled import EXAMPLES, ExampleAdapter
from lorajax.demo_server import DRAIN_S

_SIZES = """\
kv_bytes = "64MiB"
adapter_bytes = "64MiB"
host_adapter_bytes = "256MiB"
max_sequences = 8
max_batch_tokens = 128"""
"""Of one host: three of them share two cores, and each size more is one more step to compile."""


def cluster_toml(model: str, examples: Sequence[ExampleAdapter], port: int) -> str:
    """A cluster of two hosts on this machine that places anew every two seconds; port 0 takes a free one."""
    # TOML writes a text as JSON does.
    preload = "\n".join(f"{_quoted(example.name)} = {_quoted(example.folder)}" for example in examples)
    return f"""\
[model]
path = {_quoted(model)}

[cluster]
replicas = 3
transfer = "collective"
coordinator = "127.0.0.1:0"
gateway = "127.0.0.1:{port}"
state_dir = "state"
drain_s = {DRAIN_S}

[adapters]
roots = [{_quoted(str(EXAMPLES / "adapters"))}]

[adapters.preload]
{preload}

[engine]
{_SIZES}

[placement]
interval_s = 2
"""


def command(config: Path) -> tuple[str, ...]:
    """What starts the cluster of that file."""
    return (sys.executable, "-m", "lorajax", "launch", "--config", str(config), "--local")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
