"""The faults benchmark: processes of a cluster die, stop and leave under load. Owns: its cases, the cluster, the JSON.

Does not: ask requests (fault_load.py), or judge what happens to them (fault_trials.py).
"""

import asyncio
import tempfile
from pathlib import Path

import grpc

from benchmarks import fault_trials
from benchmarks.fault_trials import Rows, Trials
from benchmarks.local_cluster import LocalCluster, Tables, launched, write_config
from checkpoints.base import read_spec
from cluster import serving_pb2
from lorajax.bundled import example_adapters
from tests.multihost import rig

_NUM_HOSTS = 3
_ENGINE = {"kv_bytes": "64MiB", "adapter_bytes": "64MiB", "max_sequences": 8, "max_batch_tokens": 64}


def run(*, model: Path | None, transfer: str, rounds: int, out: Path) -> None:
    """Break a fresh cluster in every way, `rounds` times; print the table, write `faults-*.json` into `out`.

    Without `model`, a tiny one is made.
    """
    rows: Rows = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="lorajax-faults-") as scratch:
            folder = Path(scratch)
            config, adapters, late = _written(folder, model, transfer)
            with launched(config, folder / "said") as cluster:
                rows += asyncio.run(_broken(cluster, adapters, late, transfer))
    name = "tiny" if model is None else model.stem
    facts = {"model": name, "transfer": transfer, "rounds": rounds}
    fault_trials.report(rows, facts, out / f"faults-{name}-{transfer}.json")


async def _broken(cluster: LocalCluster, adapters: list[str], late: Path, transfer: str) -> Rows:
    async with grpc.aio.insecure_channel(cluster.target, options=(("grpc.enable_retries", 0),)) as channel:
        trials = Trials(channel, adapters, _NUM_HOSTS)
        await trials.until_whole()
        await _kill_host(trials, cluster)
        await _stop_host(trials, cluster)
        await _kill_coordinator(trials, cluster, late)
        await _restart_all(trials, cluster)
        if transfer == "collective":
            await _kill_rendezvous(trials, cluster)
        return trials.rows


async def _kill_host(trials: Trials, cluster: LocalCluster) -> None:
    async with trials.load("host killed") as case:
        victim = case.busy_host()
        await case.strike(victim, cluster.process(victim).kill)
        await case.until_mended(victim)


async def _stop_host(trials: Trials, cluster: LocalCluster) -> None:
    async with trials.load("host stopped") as case:
        victim = case.busy_host()
        process = cluster.process(victim)
        try:
            await case.strike(victim, process.suspend)
        finally:
            process.resume()
        await case.until_mended(victim)


async def _kill_coordinator(trials: Trials, cluster: LocalCluster, late: Path) -> None:
    """It dies right after it has acknowledged something."""
    async with trials.load("coordinator killed") as case:
        await trials.adapters.Load(serving_pb2.LoadAdapterRequest(name="late", path=str(late)))
        before = await trials.registered()
        case.begin()
        cluster.process("coordinator").kill()
        await fault_trials.until(trials.can_place)
        case.took("calls answered again", 5.0)
        await trials.until_whole()
        case.took("every host seen again")
        case.add("registrations lost", len(before - await trials.registered()), 0, "adapters")


async def _restart_all(trials: Trials, cluster: LocalCluster) -> None:
    """Every host is drained in turn, and comes back."""
    async with trials.load("rolling restart") as case:
        case.begin()
        for number in range(_NUM_HOSTS):
            host = f"host-{number}"
            pid = cluster.process(host).pid
            await trials.cluster.Drain(serving_pb2.DrainRequest(host=host))

            async def is_another(host: str = host, pid: int = pid) -> bool:
                processes = cluster.processes()
                return host in processes and processes[host].pid != pid

            await fault_trials.until(is_another)
            await trials.until_whole()
        case.took("all hosts")


async def _kill_rendezvous(trials: Trials, cluster: LocalCluster) -> None:
    """The one process whose death ends the hosts; clients are told to ask again meanwhile."""
    async with trials.load("rendezvous killed", may_fail=True) as case:
        case.begin()
        cluster.process("rendezvous").kill()
        await fault_trials.until(case.is_refused)
        await trials.until_whole()
        await fault_trials.until(case.is_answered)
        case.took("requests answered again", 60.0)


def _written(folder: Path, model: Path | None, transfer: str) -> tuple[Path, list[str], Path]:
    """A configuration, the names of the adapters that it loads, and one that it does not load."""
    if model is None:
        path, dtype = rig.write_model(folder / "model"), "float32"
        folders = rig.write_adapters(folder / "adapters")
    else:
        read_spec(model)  # in vain: what is no model is told now, not by every host
        path, dtype = model, "bfloat16"
        folders = {one.name: Path(one.folder) for one in example_adapters()}
    *names, late = folders
    tables: Tables = {
        "model": {"path": str(path), "dtype": dtype},
        "cluster": {"replicas": _NUM_HOSTS, "transfer": transfer, "coordinator": "127.0.0.1:0", "state_dir": "state"},
        "adapters": {"roots": [str(one) for one in folders.values()]},
        "adapters.preload": {name: str(folders[name]) for name in names},
        "engine": _ENGINE,
        "placement": {"interval_s": 5},
    }
    return write_config(folder / "cluster.toml", tables), names, folders[late]
