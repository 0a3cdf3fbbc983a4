"""A cluster over three network namespaces, one of which is cut off for a while. Owns: its processes and its links.

Runs in the first of the namespaces, which `scripts/namespaces.sh` has made; does not make them.
"""

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import grpc

from benchmarks import fault_trials
from benchmarks.fault_trials import Trials
from benchmarks.local_cluster import launcher, processes_of, ready
from tests.multihost import rig

_NUM_NODES = 3
_CUT = 2
"""The node that is cut off; the first has the gateway, and the load."""
_MADE = Path("/run/netns")
# Gloo listens where the machine's own name leads: each node has a name and a hosts file.
_NODE = 'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"'


def run(*, transfer: str, down_s: float, out: Path) -> None:
    """Cut one node off, tell what happens meanwhile, write `partition-*.json` into `out`."""
    if not all((_MADE / _name(node)).exists() for node in range(_NUM_NODES)):
        raise click.UsageError("there are no network namespaces to run in; use scripts/namespaces.sh")
    with tempfile.TemporaryDirectory(prefix="lorajax-partition-") as scratch:
        folder = Path(scratch)
        with _cluster(folder, transfer) as target:
            trials = asyncio.run(_told(target, down_s))
    facts = {"model": "tiny", "transfer": transfer, "nodes": _NUM_NODES, "down_s": down_s}
    fault_trials.report(trials.rows, facts, out / f"partition-{transfer}.json")


@contextlib.contextmanager
def _cluster(folder: Path, transfer: str) -> Iterator[str]:
    """One launcher in each namespace; the gateway's address."""
    rig.write_model(folder / "model")
    rig.write_adapters(folder / "adapters")
    addresses = [f"10.77.0.{node + 1}" for node in range(_NUM_NODES)]
    config = rig.write_config(
        folder,
        replicas=_NUM_NODES,
        transfer=transfer,
        coordinator=f"{addresses[0]}:7500",
        nodes=[f"{address}:7600" for address in addresses],
        insecure=True,
    )
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{one} {_name(at)}\n" for at, one in enumerate(addresses)))
    with contextlib.ExitStack() as held:
        started = [
            held.enter_context(
                launcher(config, folder / f"said-{node}", ("--node-rank", str(node)), _prefix(node, hosts), _alone())
            )
            for node in range(_NUM_NODES)
        ]
        yield ready(started[0], folder / "said-0")
    assert not processes_of(config), "a process is left"


def _prefix(node: int, hosts: Path) -> tuple[str, ...]:
    """What runs a command as if on the node."""
    inside = ("ip", "netns", "exec", _name(node), "unshare", "-u", "-m")
    return (*inside, "sh", "-c", _NODE, _name(node), str(hosts))


def _alone() -> dict[str, str]:
    """One device in each process."""
    return {"XLA_FLAGS": "", "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}


async def _told(target: str, down_s: float) -> Trials:
    async with grpc.aio.insecure_channel(target, options=(("grpc.enable_retries", 0),)) as channel:
        trials = Trials(channel, list(rig.PRELOADED), _NUM_NODES)
        await trials.until_whole()
        watching = asyncio.create_task(_watch(trials))
        async with trials.load("partition") as case:
            victim = f"host-{_CUT}"
            await case.until_answers(victim)
            cut_s = time.monotonic()
            await case.strike(victim, lambda: _link("down"))
            await asyncio.sleep(down_s - (time.monotonic() - cut_s))
            _link("up")
            case.begin()
            await case.until_mended(victim)
        watching.cancel()
        return trials


async def _watch(trials: Trials) -> None:
    """Tell each change of the hosts as it is seen."""
    began_s, last = time.monotonic(), ""
    while True:
        now = ", ".join(f"{host} {state}" for host, state in sorted((await trials.states()).items()))
        if now != last:
            print(f"{time.monotonic() - began_s:6.2f} s  {now}")
        last = now
        await asyncio.sleep(0.05)


def _link(state: str) -> None:
    print(f"          link of {_name(_CUT)} {state}")
    subprocess.run(("ip", "-n", _name(_CUT), "link", "set", "eth0", state), check=True)


def _name(node: int) -> str:
    return f"lorajax{node}"
