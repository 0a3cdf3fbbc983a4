"""The steps benchmark: how long the steps of our engine take here, as a host kind of the simulator.

Owns: the processes that measure side by side, the fit, the JSON and what is shown. Measuring is measure.py's.
"""

import asyncio
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.simulator import hardware_files
from benchmarks.simulator.fit import Fit, fitted
from benchmarks.simulator.hardware import Hardware
from benchmarks.simulator.measure import MeasureConfig, Measured, measured
from checkpoints import base
from cluster import profile
from lorajax.adapter_pages import DTYPES


def run(config: MeasureConfig, *, hosts: int, name: str, out: Path) -> None:
    """Measure on as many hosts at once as will share this machine, and write `steps-NAME.json` into `out`."""
    found = _side_by_side(config, hosts)
    fit = fitted([step for one in found for step in one.steps])
    hardware = _hardware(config, found[0], fit, name)
    facts = machine.facts({}) | {
        "model": Path(config.serve.model).name,
        "dtype": config.serve.engine.dtype,
        "hosts": hosts,
        "trial_s": config.trial_s,
        "seed": config.seed,
        "steps": fit.num_steps,
        "errors": {"median": fit.median_error, "p95": fit.p95_error, "total": fit.total_error},
    }
    path = out / f"steps-{name}.json"
    hardware_files.write(path, hardware, facts)
    print(
        f"{fit.num_steps:,} steps; the model is off by {fit.median_error:.0%} in the median, {fit.p95_error:.0%} "
        f"at the 95th percentile, {fit.total_error:+.1%} in total\n{path}"
    )


def _side_by_side(config: MeasureConfig, hosts: int) -> Sequence[Measured]:
    """Each host in a process of its own, all at the same time: what they take from each other counts."""
    if hosts == 1:
        return [measured(config)]
    with tempfile.TemporaryDirectory(prefix="lorajax-steps-") as folder:
        asked = Path(folder) / "config"
        asked.write_bytes(pickle.dumps(config))
        answers = [Path(folder) / f"{number}" for number in range(hosts)]
        command = (sys.executable, "-m", "benchmarks.simulator.bench_steps", str(asked))
        processes = [subprocess.Popen((*command, str(answer))) for answer in answers]
        if any([process.wait() for process in processes]):
            raise RuntimeError("a process that measures has failed; see above")
        return [pickle.loads(answer.read_bytes()) for answer in answers]  # noqa: S301  # our own, written just now


def _hardware(config: MeasureConfig, measured: Measured, fit: Fit, name: str) -> Hardware:
    engine = config.serve.engine
    spec = base.read_spec(Path(config.serve.model))
    adapter = profile.random_adapter(spec, max(config.ranks), DTYPES[engine.dtype])
    link_bytes_per_s = asyncio.run(profile.loopback_bytes_per_s(adapter))
    return Hardware(
        name=name,
        about=f"{Path(config.serve.model).name} in {engine.dtype} on {machine.cpu_model()}, measured",
        step=fit.step,
        limits=measured.limits,
        host_bytes=engine.host_adapter_bytes,
        page_bytes=measured.page_bytes,
        link_bytes_per_s=link_bytes_per_s,
        store_bytes_per_s=link_bytes_per_s,
        load_bytes_per_s=measured.page_bytes / max(fit.write_s, 1e-9),
    )


def _main(asked: Path, answer: Path) -> None:
    """One of several processes: what to measure comes in a file, and what was measured goes into another."""
    answer.write_bytes(pickle.dumps(measured(pickle.loads(asked.read_bytes()))))  # noqa: S301  # our parent's


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
