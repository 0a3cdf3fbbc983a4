"""The control plane as one deterministic object. Owns: what every event means. Does not: do I/O or ask the clock.

`commands = coordinator.step(event)`. Hosts come and go (hosts.py, drains.py), names too (name_calls.py, loads.py),
rounds place adapters and move copies (rounds.py), and what is ordered leaves in a fixed order (orders.py).
"""

import math
from dataclasses import dataclass, field, replace

from cluster.demand import Demand, DemandConfig
from cluster.drains import Drains
from cluster.events import (
    Answer,
    Command,
    CommandFailed,
    Done,
    DrainAsked,
    DrainHost,
    DropAdapter,
    Event,
    FetchAdapter,
    FolderRead,
    HostBeat,
    HostCommand,
    HostJoined,
    HostLeft,
    LoadAsked,
    PinAdapter,
    PinAsked,
    Publish,
    ReadFolder,
    RebalanceAsked,
    Refuse,
    Restored,
    Tick,
    UnloadAsked,
)
from cluster.hosts import Hosts
from cluster.loads import Loads
from cluster.name_calls import NameCalls
from cluster.operating_points import OperatingPoints
from cluster.orders import Orders
from cluster.pins import Pins
from cluster.placement_input import Policy
from cluster.registrations import Registrations
from cluster.rounds import RoundConfig, Rounds
from cluster.view import HostName, HostState, Table
from lorajax.errors import BadRequest, LorajaxError, Unavailable

_FORGET_S = 600.0
"""A lost host is shown for this long."""

type _Asked = LoadAsked | UnloadAsked | PinAsked | DrainAsked | RebalanceAsked
type _Outcome = Done | FolderRead | CommandFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """When the coordinator acts by itself."""

    interval_s: float = 30.0
    """Between rounds. Small follows demand sooner; large moves less."""
    silence_s: float = 2.0
    """A host that says nothing for this long is lost. Too small loses hosts that are only slow."""
    settle_s: float = 1.0
    """After a start, nothing is placed for this long: the hosts that hold the copies are still on their way back."""
    drain_wait_s: float = 10.0
    """A host that is to drain goes on for at most this long, until others hold what only it holds."""
    in_use_s: float = 2.0
    """An adapter counts as used for this long after its last token."""
    min_copies: int = 1
    """Hosts that must hold each adapter."""
    rounds: RoundConfig = field(default_factory=RoundConfig)
    demand: DemandConfig = field(default_factory=DemandConfig)


class Coordinator:
    """Hosts, names and rounds of one cluster.

    Invariant: every call is answered once; the last copy of an adapter on the serving hosts is never told to go; the
    same events give the same commands.
    Owner: one task. `Restored` comes first; nothing is published before the first round, for which hosts have had
    `settle_s` to come back.
    """

    def __init__(self, config: CoordinatorConfig, points: OperatingPoints, policy: Policy) -> None:
        """Start without hosts and names."""
        self._config = config
        self._hosts, self._names, self._orders = Hosts(), Registrations(), Orders()
        self._loads = Loads(hosts=self._hosts, registrations=self._names, orders=self._orders)
        self._pins = Pins(hosts=self._hosts, registrations=self._names, orders=self._orders)
        self._drains = Drains(
            hosts=self._hosts, registrations=self._names, orders=self._orders, wait_s=config.drain_wait_s
        )
        self._rounds = Rounds(
            hosts=self._hosts,
            registrations=self._names,
            orders=self._orders,
            config=config.rounds,
            points=points,
            policy=policy,
            demand=Demand(config.demand),
        )
        self._name_calls = NameCalls(
            hosts=self._hosts,
            registrations=self._names,
            orders=self._orders,
            loads=self._loads,
            pins=self._pins,
            rounds=self._rounds,
            min_copies=config.min_copies,
            in_use_s=config.in_use_s,
        )
        self._number = 0
        self._now_s = -math.inf
        self._settled_s = math.inf
        self._ticked_s = -math.inf
        self._awake_s = math.inf
        self._placed_s = -math.inf
        self._has_placed = False
        """Whether the first round is over: until then nobody is told of a table that may lack hosts."""
        self._is_stale = True
        """Whether hosts or copies have changed in a way that only a round puts right."""

    def table(self) -> Table:
        """Everything a gateway needs, as of now."""
        return Table(
            number=self._number,
            round=self._rounds.number,
            hosts=self._hosts.views(),
            registrations=self._names.all(),
            shares=self._rounds.shares,
        )

    def step(self, event: Event) -> tuple[Command, ...]:
        """Take one event in; returns what follows from it, in the order in which it is to be carried out."""
        match event:
            case Restored():
                self._restore(event)
            case Tick(now_s=now_s):
                self._tick(now_s)
            case HostJoined() | HostBeat() | HostLeft():
                self._pass_time(event.now_s)
                self._hear(event)
            case Done() | FolderRead() | CommandFailed():
                self._learn(event)
            case _:
                self._try(event)
        commands = self._orders.take()
        if not self._has_placed:
            commands = tuple(command for command in commands if not isinstance(command, Publish))
        self._number += Publish() in commands
        return commands

    # Time.

    def _pass_time(self, now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)
        if self._settled_s == math.inf:
            self._settled_s = self._now_s + self._config.settle_s

    def _can_place(self) -> bool:
        return self._now_s >= self._settled_s and bool(self._hosts.serving())

    def _tick(self, now_s: float) -> None:
        self._pass_time(now_s)
        silence_s = self._config.silence_s
        # A gap means that we were stopped or busy: what the hosts said meanwhile is still to be read.
        if now_s - self._ticked_s > silence_s / 2:
            self._awake_s = now_s
        self._ticked_s = now_s
        if now_s - self._awake_s >= silence_s and (silent := self._hosts.silent(now_s - silence_s)):
            self._lose(*silent)
        for host in self._hosts.forget(now_s - _FORGET_S):
            self._orders.forget(host)
            self._orders.send(Publish())
        is_due = self._is_stale or now_s - self._placed_s >= self._config.interval_s
        if is_due and self._can_place():
            self._place()
        self._rounds.drop_nameless(now_s)
        self._drains.settle(now_s)

    def _place(self) -> int:
        self._is_stale, self._has_placed = False, True
        self._placed_s = self._now_s
        num_moves = self._rounds.begin(self._now_s)
        self._pins.settle(self._rounds.shares)
        return num_moves

    # Hosts.

    def _hear(self, event: HostJoined | HostBeat | HostLeft) -> None:
        match event:
            case HostJoined(spec=spec):
                view = self._hosts.view(spec.name)
                if view is not None and spec.incarnation < view.spec.incarnation:
                    return
                if view is not None:
                    self._lose(spec.name)
                self._orders.forget(spec.name)
                self._hosts.join(event)
                self._drains.joined(spec.name)
                self._change_hosts()
            case HostBeat(host=host, incarnation=incarnation):
                if (state := self._state(host, incarnation)) is not None:
                    self._rounds.note(host, event.tokens, event.now_s)
                    self._hosts.beat(event)
                    if self._state(host, incarnation) != state:
                        self._change_hosts()
            case HostLeft(host=host, incarnation=incarnation):
                if self._state(host, incarnation) not in (None, HostState.LOST):
                    self._lose(host)

    def _state(self, host: HostName, incarnation: int) -> HostState | None:
        """The state of a host in this life; None where it has another, or none."""
        view = self._hosts.view(host)
        return view.state if view is not None and view.spec.incarnation == incarnation else None

    def _lose(self, *hosts: HostName) -> None:
        unanswered: list[HostCommand] = []
        for host in hosts:
            self._hosts.lose(host)
            self._pins.lose(host)
            unanswered += self._orders.lose(host)
        for command in unanswered:
            if isinstance(command, ReadFolder):
                self._loads.lost(command.number)
        self._change_hosts()

    def _change_hosts(self) -> None:
        """Route round what has gone at once; the next tick places anew, once for all hosts that change together."""
        self._is_stale = True
        if self._has_placed:
            self._rounds.repair()

    # Outcomes.

    def _learn(self, event: _Outcome) -> None:
        command = self._orders.answered(event.number)
        match command:
            case ReadFolder():
                self._name_calls.end_load(command, event, self._now_s)
            case FetchAdapter(host=host, adapter=adapter):
                if isinstance(event, Done):
                    self._hosts.gain(host, adapter.version)
                    self._pins.settle(self._rounds.shares)
                self._rounds.fetch(host)
            case DropAdapter(host=host, version=version):
                self._hosts.dropped(host, version, is_gone=isinstance(event, Done))
                # It was registered again while it went.
                self._is_stale |= version in self._names.adapters() and not self._hosts.holders(version)
            case PinAdapter() if isinstance(event, CommandFailed):
                self._pins.failed(command)
            case DrainHost(host=host) if isinstance(event, CommandFailed):
                self._hosts.undrain(host)

    # Calls.

    def _try(self, event: _Asked) -> None:
        try:
            match event:
                case LoadAsked():
                    self._name_calls.load(event)
                case UnloadAsked():
                    self._name_calls.unload(event, self._now_s)
                case PinAsked():
                    self._name_calls.pin(event, self._now_s)
                case DrainAsked():
                    self._drain(event)
                case RebalanceAsked(call=call):
                    if not self._can_place():
                        raise Unavailable("no host is serving; try again")
                    num_moves = self._place()
                    self._orders.send(Answer(call=call, count=num_moves, round=self._rounds.number))
        except LorajaxError as error:
            self._orders.send(Refuse(call=event.call, error=error))

    def _drain(self, event: DrainAsked) -> None:
        living = [name for name, one in self._hosts.views().items() if one.state is not HostState.LOST]
        host = HostName(event.host or (living[0] if len(living) == 1 else ""))
        view = self._hosts.view(host)
        if view is None or view.state is HostState.LOST:
            raise BadRequest(f"no host {event.host!r} to drain; there are {', '.join(living) or 'none'}", field="host")
        if view.state is not HostState.DRAINING and not self._hosts.is_told_to_drain(host):
            self._drains.ask(host, self._now_s)
            self._change_hosts()
            if self._can_place():
                self._place()
            self._drains.settle(self._now_s)
        self._orders.send(Answer(call=event.call, count=view.load.num_running + view.load.num_waiting))

    def _restore(self, event: Restored) -> None:
        min_copies = self._config.min_copies  # may have been changed since
        for one in event.registrations:
            self._names.put(replace(one, adapter=replace(one.adapter, min_copies=min_copies)))
        self._rounds.number = event.round
        self._rounds.is_blind = bool(event.registrations)
        # Tables, too, are numbered beyond those of earlier coordinators: a front door tells by that which one is later.
        self._number = self._orders.restart(event.round)
