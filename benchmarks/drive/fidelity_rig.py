"""Real runs for the simulator to be held against. Owns: their workloads, local clusters, and what is kept of them.

Does not: simulate, or compare.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.baselines.systems import SYSTEMS, System
from benchmarks.drive.bed import Bed, running
from benchmarks.drive.calibration import Calibration, calibrated, ways_s
from benchmarks.drive.open_loop import Sending
from benchmarks.drive.run import Drive, Driven, drive
from benchmarks.local_cluster import LocalCluster
from benchmarks.outcomes.records import Run
from benchmarks.workloads import lengths, settings
from benchmarks.workloads.records import Workload
from benchmarks.workloads.setting import Part, Setting
from cluster import cluster_config
from cluster.client import Client
from cluster.records import AdapterInfo
from cluster.step_log import LoggedStep, parsed
from lorajax.spec import Version

TIMEOUT_S = 60.0
CALIBRATION_RATES = (0.75, 1.25)
"""Times the rate that is compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run."""

    bed: Bed
    setting: Setting
    duration_s: float
    """That is compared."""
    warm_s: float
    """Before it: asked for, but not compared. When it ends, adapters are where demand wants them."""
    calibration_s: float
    """At each of its rates."""
    seed: int

    def workload(self) -> Workload:
        """What real and simulated hosts are asked alike."""
        return self.setting(duration_s=self.warm_s + self.duration_s, seed=self.seed)

    def compared(self, run: Run) -> Run:
        """The run without its beginning."""
        outcomes = tuple(one for one in run.outcomes if one.due_s >= self.warm_s)
        return replace(run, outcomes=outcomes, span_s=run.span_s - self.warm_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A real cluster under one workload after the other."""

    driven: Sequence[Driven]
    others: float
    """Cores that were busy meanwhile with what is no part of it, or were taken by another machine on this one."""
    adapters: Sequence[AdapterInfo]
    logs: Mapping[str, Sequence[LoggedStep]]
    """By host."""
    config: Path

    @property
    def versions(self) -> Mapping[str, Version]:
        """By name: who draws by them draws alike in the simulator."""
        return {one.name: Version(one.version) for one in self.adapters}


def setting_of(rate: float, scale: float, adapters: int, seed: int) -> Setting:
    """Zipf popularity, Poisson arrivals, lengths of conversations times `scale`; ranks are those of `seed` for ever."""
    setting = settings.changed(settings.NAMED["zipf"], adapters=adapters, ranks="8,16,32,64,128")
    scaled = lengths.scaled(setting.lengths.make, scale, 2**20)
    setting = replace(setting, rate=rate, lengths=Part(f"{setting.lengths.label} x {scale:g}", scaled))
    ranks = setting(seed=seed, duration_s=1.0).ranks
    known = np.array([ranks[name] for name in setting.adapters])
    return replace(setting, ranks=Part(setting.ranks.label, lambda _count, _random: known))


def observed(plan: Plan, name: str, system: System, points: Path) -> tuple[Seen, Seen]:
    """What is compared, of one system that knows these operating points, and right after it what hosts are calibrated
    on; a cluster of its own by that name."""
    seen = _seen(plan, plan.bed.write(name, system, points), name, (plan.workload(), *_other_workloads(plan)))
    return first_and_rest(seen)


def observed_otherwise(plan: Plan, name: str) -> Seen:
    """What hosts are calibrated on, without anything that is compared; its beginning, adapters on their way, left out.

    A cluster of its own by that name.
    """
    warming = plan.setting(duration_s=plan.warm_s, seed=plan.seed + 1)
    seen = _seen(plan, plan.bed.write(name, SYSTEMS["ours"]), "ours", (warming, *_other_workloads(plan)))
    return first_and_rest(seen)[1]


def _other_workloads(plan: Plan) -> Sequence[Workload]:
    """What hosts are calibrated on: other requests than those that are compared, at other rates, always the same."""
    return [
        plan.setting(rate=plan.setting.rate * part, duration_s=plan.calibration_s, seed=plan.seed + 2 + turn)
        for turn, part in enumerate(CALIBRATION_RATES)
    ]


def first_and_rest(seen: Seen) -> tuple[Seen, Seen]:
    """The first workload alone, and all that came after it; none begins before the one before has ended."""
    began_s = seen.driven[1].sent.began_s
    first = {host: [step for step in log if step.began_s < began_s] for host, log in seen.logs.items()}
    rest = {host: [step for step in log if step.began_s >= began_s] for host, log in seen.logs.items()}
    return replace(seen, driven=seen.driven[:1], logs=first), replace(seen, driven=seen.driven[1:], logs=rest)


def calibration(seen: Sequence[Seen]) -> Calibration:
    """The hosts, by all that was observed for it."""
    return calibrated(
        cluster_config.read(seen[0].config, Path()),
        [[step for one in seen for step in one.logs[host]] for host in sorted(seen[0].logs)],
        {Version(info.version): info.rank for one in seen for info in one.adapters},
        [way_s for one in seen for driven in one.driven for way_s in ways_s(driven.sent, one.logs)],
    )


def _seen(plan: Plan, config: Path, name: str, workloads: Sequence[Workload]) -> Seen:
    (folder := config.with_name("steps")).mkdir()
    with running(config, plan.bed.num_hosts, folder) as cluster:
        sending = Sending(timeout_s=TIMEOUT_S, seed=plan.seed)
        drives = Drive(address=cluster.target, sending=sending, system=name)
        others_s, span_s = -_others_s(cluster), 0.0
        driven = []
        for workload in workloads:
            driven.append(asyncio.run(drive(workload, drives)))
            span_s += driven[-1].run.span_s
        others_s += _others_s(cluster)
        adapters = asyncio.run(_adapters(cluster.target))
    logs = {file.stem: parsed(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.jsonl"))}
    return Seen(driven=driven, others=others_s / span_s, adapters=adapters, logs=logs, config=config)


async def _adapters(target: str) -> Sequence[AdapterInfo]:
    async with Client(target) as client:
        return await client.adapters()


def _others_s(cluster: LocalCluster) -> float:
    """Seconds for which cores were busy with what is neither the cluster nor us, or were stolen, since the start."""
    machine = psutil.cpu_times()
    ours = (psutil.Process(), *psutil.Process(cluster.launcher.pid).children(recursive=True))
    times = [process.cpu_times() for process in ours]
    return (
        machine.user
        + machine.nice
        + machine.system
        + machine.irq
        + machine.softirq
        + machine.steal
        - sum(one.user + one.system for one in times)
    )
