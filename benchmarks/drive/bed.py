"""A local cluster to be driven, the same but for its system. Owns: its files, and which cores its hosts run on.

Hosts that shared cores would slow each other down, which machines of their own do not: each host gets a core, and
gateway, coordinator and driver get the rest. Where there are too few cores hosts take turns at them.
Does not: start processes (local_cluster.py does), or send anything.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks import local_cluster
from benchmarks.baselines.systems import System
from benchmarks.drive.make_adapters import make_adapters
from benchmarks.local_cluster import LocalCluster
from tests.multihost import rig

_ROOT = Path(__file__).resolve().parents[2]
_APPEAR_S, _LOOK_S = 60.0, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """What all clusters of a comparison have in common."""

    folder: Path
    """Everything is kept below it; it is empty at first."""
    model: Path
    dtype: str
    ranks: Mapping[str, int]
    """Of the adapters, which are registered before the cluster is ready."""
    engine: Mapping[str, object]
    """As in the `cluster.toml`."""
    num_hosts: int = 3
    interval_s: float = 3.0
    """Between rounds."""
    ttft_p95_s: float = 2.0

    @classmethod
    def tiny(cls, folder: Path, ranks: Mapping[str, int], engine: Mapping[str, object], ttft_p95_s: float) -> "Bed":
        """One with a model that is made for it, and takes milliseconds for a step."""
        model = rig.write_model(folder / "model")
        return cls(folder=folder, model=model, dtype="float32", ranks=ranks, engine=engine, ttft_p95_s=ttft_p95_s)

    def write(self, name: str, system: System, points: Path | None = None) -> Path:
        """The configuration of one cluster, in a folder of its own."""
        adapters = self.folder / "adapters"
        if not adapters.exists():
            make_adapters(self.model, adapters, self.ranks)
        (folder := self.folder / name.replace(" ", "-")).mkdir()
        known = {} if points is None else {"operating_points": str(points)}
        tables: dict[str, dict[str, object]] = {
            "model": {"path": str(self.model), "dtype": self.dtype},
            "cluster": {
                "replicas": self.num_hosts,
                "transfer": "stream",
                "coordinator": "127.0.0.1:0",
                "state_dir": "state",
            },
            "adapters": {"roots": [str(adapters)]},
            "adapters.preload": {name: str(adapters / name) for name in self.ranks},
            "engine": dict(self.engine),
            "placement": {"interval_s": self.interval_s, "policy": system.policy, "routing": system.routing, **known},
            "slo": {"ttft_p95_s": self.ttft_p95_s},
        }
        return local_cluster.write_config(folder / "cluster.toml", tables)


@contextlib.contextmanager
def running(config: Path, num_hosts: int, step_log: Path | None = None) -> Iterator[LocalCluster]:
    """The cluster of such a configuration, once it can answer; this process keeps to the cores that hosts do not have.

    Each host tells in a file in `step_log`, its name.jsonl, what its steps computed and how long they took.
    """
    logged = {} if step_log is None else {"LORAJAX_STEP_LOG": str(step_log)}
    cores = sorted(os.sched_getaffinity(0))
    core_of = {f"host-{number}": cores[number % len(cores)] for number in range(num_hosts)}
    environment = {"PYTHONPATH": str(_ROOT)} | logged
    with (
        on_cores(cores[num_hosts:] or cores),
        local_cluster.launched(config, config.with_name("said"), environment, partial(_pin, core_of)) as cluster,
    ):
        yield cluster


@contextlib.contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Keep to these cores, with all that is started meanwhile."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def _pin(core_of: Mapping[str, int], launcher: "subprocess.Popen[str]") -> None:
    """Give each host its core as soon as it is there: before it has other threads than its first."""
    missing = dict(core_of)
    give_up_s = time.monotonic() + _APPEAR_S
    while missing and launcher.poll() is None and time.monotonic() < give_up_s:
        for name, process in local_cluster.children_of(launcher).items():
            if name in missing:
                with contextlib.suppress(psutil.NoSuchProcess):  # looked for again: it may have been started anew
                    process.cpu_affinity([missing[name]])
                    del missing[name]
        time.sleep(_LOOK_S)
