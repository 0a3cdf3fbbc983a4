"""The shell round the product's coordinator, on the virtual clock. Owns: ticks, tables, orders on their way.

Does not: decide (the coordinator does). The rules are those of `cluster.control_service`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.simulator.front import Front
from benchmarks.simulator.host import Host
from benchmarks.simulator.site import Site
from cluster.control_service import GATHER_S
from cluster.coordinator import Coordinator
from cluster.events import Command, Done, DropAdapter, Event, FetchAdapter, HostBeat, Publish, Tick
from cluster.view import HostName, Shares

type Placement = tuple[float, Shares]


class Control:
    """Carries out what the coordinator orders."""

    def __init__(self, site: Site, coordinator: Coordinator, front: Front, hosts: Mapping[HostName, Host]) -> None:
        """Tell nobody anything yet."""
        self.placements: list[Placement] = []
        """When each round was, and what it gave."""
        self._site, self._clock, self._coordinator = site, site.clock, coordinator
        self._front, self._hosts = front, hosts
        self._is_publishing = False
        self._round = 0

    def step(self, event: Event) -> None:
        """Let the coordinator know, and carry out what follows."""
        for command in self._coordinator.step(event):
            if isinstance(command, Publish):
                self._publish()
            else:
                self._clock.after(self._site.config.hardware.relay_s / 2, partial(self._order, command))

    def hear(self, beat: HostBeat, outcomes: Sequence[Done]) -> None:
        """As `host.Doors`: the coordinator believes of demand what it is to believe."""
        distortion = self._site.config.distortion
        if distortion.is_any:
            seen = {version: distortion.seen(version, count) for version, count in beat.tokens.items()}
            self.step(replace(beat, tokens=seen))
        else:
            self.step(beat)
        for outcome in outcomes:
            self.step(outcome)
        self._front.hear(beat)

    def tick(self) -> None:
        """Let time pass, for ever."""
        self.step(Tick(now_s=self._clock.now_s))
        self._clock.after(self._site.config.tick_s, self.tick)

    def _order(self, command: Command) -> None:
        assert isinstance(command, FetchAdapter | DropAdapter), f"{command}: nobody has called"
        host = self._hosts[command.host]
        if not host.is_lost:
            host.carry_out(command)

    def _publish(self) -> None:
        if not self._is_publishing:
            self._is_publishing = True
            self._clock.after(GATHER_S, self._tell)

    def _tell(self) -> None:
        self._is_publishing = False
        table = self._coordinator.table()
        if table.round != self._round and self._site.config.keeps_placements:
            self._round = table.round
            self.placements.append((self._clock.now_s, table.shares))
        self._front.update(table)
