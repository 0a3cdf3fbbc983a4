"""A whole cluster on a virtual clock. Owns: how its parts are put together, and what is read off at the end.

The coordinator, placement, router, fair queue and every host's scheduler are the product's own objects; device steps
and lines between hosts are models (device.py, links.py). A run begins as an operator would leave it: every host holds
what the system's placement gives it before anything is known of demand.
"""

import contextlib
import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256

from benchmarks.baselines.systems import System
from benchmarks.outcomes.records import HostUse, Run
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.config import Loss, SimulationConfig
from benchmarks.simulator.control import Control
from benchmarks.simulator.front import Front
from benchmarks.simulator.host import Host, host_name
from benchmarks.simulator.links import Links
from benchmarks.simulator.site import Site
from benchmarks.workloads.records import Workload
from cluster.coordinator import Coordinator
from cluster.coordinator_server import coordinator_config
from cluster.demand import Demand
from cluster.events import HostLeft, Restored
from cluster.placement_input import PlacementInput
from cluster.routing import Router, RouterConfig
from cluster.view import Adapter, HostName, HostState, HostView, Registration
from lorajax.spec import Version

_START_S = 2.0
"""Until the workload begins: the first round needs hosts to have had time to come back."""


def simulate(workload: Workload, system: System, config: SimulationConfig) -> Run:
    """Let a system serve a workload; the same arguments give the same run."""
    cluster = _Cluster(workload, system, config)
    cluster.pass_time(math.inf)
    return cluster.result()


def kept(workload: Workload, system: System, config: SimulationConfig) -> Run | None:
    """The same run if it keeps the TTFT of `config.slo`; None as soon as it no longer can."""
    cluster = _Cluster(workload, system, config)
    most_late = config.slo.most_late(sum(one.at_s >= config.warm_s for one in workload.arrivals))
    cluster.pass_time(most_late)
    return None if cluster.num_late > most_late else cluster.result()


class _Cluster:
    """One simulation, from its start to its end."""

    def __init__(self, workload: Workload, system: System, config: SimulationConfig) -> None:
        self._workload, self._system, self._config = workload, system, config
        self._site = Site(config=config, clock=Clock(), links=Links(config.hardware), has_pool=system.has_pool)
        self._clock = self._site.clock
        self._paced = coordinator_config(
            interval_s=config.interval_s, min_copies=config.min_copies, budget_bytes=config.budget_bytes
        )
        self._adapters = _adapters(workload, config)
        self._points = config.hardware.points(config.hardware.step.kernels, config.slo)
        self._hosts: dict[HostName, Host] = {}
        self._lives: list[Host] = []
        targets = RouterConfig(ttft_p95_s=config.slo.ttft_s, tbt_p95_s=config.slo.tpot_s, seed=config.seed)
        self._front = Front(self._site, Router(targets, self._points, system.route), self._hosts, _START_S)
        coordinator = Coordinator(self._paced, self._points, system.place)
        self._control = Control(self._site, coordinator, self._front, self._hosts)

    @property
    def num_late(self) -> int:
        """Requests of which it is known that they miss the SLO."""
        return len(self._front.late)

    def pass_time(self, most_late: float) -> None:
        """Let all of it happen, or as much as it takes for more requests than that to be late."""
        outcomes, late, num = self._front.outcomes, self._front.late, len(self._workload.arrivals)
        self._start()
        self._arrive(0)
        with _without_collection():
            self._clock.run(lambda: len(outcomes) == num or len(late) > most_late)

    def result(self) -> Run:
        """What came of it, after all of it has happened."""
        arrivals = self._workload.arrivals
        span_s = max(self._clock.now_s - _START_S, 0.0)
        counted_s = max(span_s - self._config.warm_s, 0.0)
        names = {one.version: name for name, one in self._adapters.items()}
        return Run(
            system=self._system.name,
            workload=self._workload.name,
            facts=_facts(self._workload, self._system, self._config),
            outcomes=tuple(self._front.outcomes[number] for number in range(len(arrivals))),
            span_s=span_s,
            hosts={name: _together(self._uses(name, counted_s)) for name in self._hosts},
            moved_bytes=self._site.moved.num_bytes,
            num_moves=self._site.moved.num_copies,
            placements=tuple(
                (
                    when_s - _START_S,
                    {names[version]: {one.host: one.share for one in shares} for version, shares in found.items()},
                )
                for when_s, found in self._control.placements
            ),
        )

    def _start(self) -> None:
        registrations = tuple(Registration(name=name, adapter=one) for name, one in self._adapters.items())
        self._control.step(Restored(registrations=registrations, round=0))
        hosts = [self._new_host(number, 0) for number in range(self._config.num_hosts)]
        held = self._first_copies(hosts)
        for number, host in enumerate(hosts):
            first_beat_s = self._config.beat_s * (number + 1) / len(hosts)
            self._control.step(host.join(held.get(host.spec.name, ()), first_beat_s))
        self._control.tick()
        self._clock.at(_START_S + self._config.warm_s, self._restart)
        for loss in self._config.losses:
            self._clock.at(_START_S + loss.at_s, partial(self._lose, loss))

    def _new_host(self, number: int, incarnation: int) -> Host:
        host = Host(self._site, self._front, self._control.hear, number, incarnation)
        self._hosts[host.spec.name] = host
        self._lives.append(host)
        return host

    def _first_copies(self, hosts: Sequence[Host]) -> Mapping[HostName, Sequence[Adapter]]:
        """What each host holds before anything is known of demand."""
        adapters = {one.version: one for one in self._adapters.values()}
        given = PlacementInput(
            adapters=adapters,
            demand=Demand(self._paced.demand).forecast(adapters, now_s=0.0),
            points=self._points,
            hosts=tuple(HostView(spec=host.spec, state=HostState.SERVING) for host in hosts),
            budget_bytes=sum(one.num_bytes for one in adapters.values()) * len(hosts),
        )
        held: dict[HostName, list[Adapter]] = {}
        for version, shares in self._system.place(given).items():
            for share in shares:
                held.setdefault(share.host, []).append(adapters[version])
        return held

    def _restart(self) -> None:
        for life in self._lives:
            life.restart()
        self._site.moved.restart()

    def _arrive(self, number: int) -> None:
        """Have the next request come, and after it the one that follows."""
        arrivals = self._workload.arrivals
        if number == len(arrivals):
            self._clock.at(_START_S + self._workload.span_s + self._config.drain_s, self._front.give_up)
            return

        def come() -> None:
            self._front.arrive(number, arrivals[number])
            self._arrive(number + 1)

        self._clock.at(_START_S + arrivals[number].at_s, come)

    def _lose(self, loss: Loss) -> None:
        host = self._hosts[host_name(loss.host)]
        host.lose(is_silent=loss.is_silent)
        if not loss.is_silent:
            spec = host.spec
            self._front.lose(spec.name)
            self._control.step(HostLeft(host=spec.name, incarnation=spec.incarnation, now_s=self._clock.now_s))
        if loss.back_s < math.inf:
            self._clock.at(_START_S + loss.back_s, partial(self._return, loss.host, host.spec.incarnation + 1))

    def _return(self, number: int, incarnation: int) -> None:
        host = self._new_host(number, incarnation)
        self._control.step(host.join((), self._clock.now_s + self._config.beat_s))

    def _uses(self, name: HostName, span_s: float) -> list[HostUse]:
        return [life.use(span_s) for life in self._lives if life.spec.name == name]


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Let nobody look for cycles while the block runs: a simulation makes none, and has very many objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _together(lives: Sequence[HostUse]) -> HostUse:
    return HostUse(
        busy_s=sum(one.busy_s for one in lives),
        tokens=sum(one.tokens for one in lives),
        mean_held_bytes=sum(one.mean_held_bytes for one in lives),
        max_held_bytes=max(one.max_held_bytes for one in lives),
        max_held_adapters=max(one.max_held_adapters for one in lives),
        device_hits=sum(one.device_hits for one in lives),
        host_hits=sum(one.host_hits for one in lives),
        misses=sum(one.misses for one in lives),
        stall_s=sum(one.stall_s for one in lives),
    )


def _adapters(workload: Workload, config: SimulationConfig) -> dict[str, Adapter]:
    """By name."""
    return {
        name: Adapter(
            version=config.versions.get(name, Version(sha256(f"{config.seed} {name}".encode()).hexdigest())),
            rank=rank,
            num_bytes=config.hardware.adapter_bytes(rank),
            path=name,
            min_copies=config.min_copies,
        )
        for name, rank in workload.ranks.items()
    }


def _facts(workload: Workload, system: System, config: SimulationConfig) -> dict[str, object]:
    """What makes two runs comparable, but for where they were made."""
    hardware = config.hardware
    return {
        "driver": "simulator",
        "system": {"policy": system.policy, "routing": system.routing},
        "workload": dict(workload.facts),
        "hardware": hardware.name,
        "kernels": str(hardware.step.kernels),
        "hosts": config.num_hosts,
        "adapters": len(workload.ranks),
        "interval_s": config.interval_s,
        "budget_bytes": config.budget_bytes,
        "min_copies": config.min_copies,
        "deadline_s": config.deadline_s,
        "beat_s": config.beat_s,
        "losses": [asdict(loss) for loss in config.losses],
        "distortion": asdict(config.distortion),
        "seed": config.seed,
    }
