"""Workloads as files. Owns: the JSON lines that `loaders.read` reads back. Does not: read."""

import gzip
import json
from pathlib import Path

from benchmarks.workloads.records import Workload


def write(path: Path, workload: Workload) -> None:
    """One line about the workload with the ranks of all adapters, then one for each request; packed if named .gz."""
    about = {"workload": workload.name, "facts": dict(workload.facts), "ranks": dict(workload.ranks)}
    requests = (
        {
            "t_s": one.at_s,
            "prompt_tokens": one.prompt_tokens,
            "output_tokens": one.output_tokens,
            "adapter": one.adapter,
            "tenant": one.tenant,
        }
        for one in workload.arrivals
    )
    text = "".join(json.dumps(line) + "\n" for line in (about, *requests))
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
