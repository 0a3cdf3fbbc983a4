"""Loads that wait for a host to read their folder. Owns: whose turn it is, and which host reads. Registers nothing."""

from collections import deque
from dataclasses import dataclass, field

from cluster.events import LoadAsked, ReadFolder, Refuse
from cluster.hosts import Hosts
from cluster.orders import Orders
from cluster.registrations import Registrations
from cluster.view import HostName, HostView
from lorajax.errors import Unavailable

_MAX_LOST = 3
"""Hosts that may be lost while they read one folder: a folder that kills its readers must not kill them all."""


@dataclass(slots=True)
class _Load:
    asked: LoadAsked
    num_lost: int = 0


@dataclass(slots=True, kw_only=True)
class Loads:
    """The loads in flight.

    Invariant: of the loads of one name, the one asked first is being read, and the others wait for it to end.
    Owner: the coordinator.
    """

    hosts: Hosts
    registrations: Registrations
    orders: Orders
    _queues: dict[str, deque[_Load]] = field(default_factory=dict)
    _name_of: dict[int, str] = field(default_factory=dict)

    def ask(self, asked: LoadAsked) -> None:
        """Take one more load, to be read now or after those of its name."""
        queue = self._queues.setdefault(asked.name, deque())
        queue.append(_Load(asked))
        if len(queue) == 1:
            self._read_next(asked.name)

    def ended(self, number: int) -> LoadAsked:
        """The load whose folder was read, or could not be; the next of its name goes on."""
        name = self._name_of.pop(number)
        asked = self._queues[name].popleft().asked
        self._read_next(name)
        return asked

    def lost(self, number: int) -> None:
        """Let another host read, since the first was lost."""
        name = self._name_of.pop(number)
        load = self._queues[name][0]
        load.num_lost += 1
        if load.num_lost >= _MAX_LOST:
            self._refuse(load, f"{_MAX_LOST} hosts were lost while they read {load.asked.path!r}; is it sound?")
            self._queues[name].popleft()
        self._read_next(name)

    def _read_next(self, name: str) -> None:
        """Have the first of the name's loads read; refuse them all if nobody can."""
        queue, host = self._queues[name], self._reader()
        if queue and host is not None:
            number = self.orders.number()
            self._name_of[number] = name
            self.orders.send(ReadFolder(number=number, host=host, path=queue[0].asked.path))
            return
        for load in self._queues.pop(name):
            self._refuse(load, "no host is serving that could read the folder; try again")

    def _refuse(self, load: _Load, reason: str) -> None:
        self.orders.send(Refuse(call=load.asked.call, error=Unavailable(reason)))

    def _reader(self) -> HostName | None:
        """The serving host with the most room and the least to do."""
        hosts = self.hosts.serving()
        return min(hosts, key=lambda view: (self._fullness(view), view.spec.name)).spec.name if hosts else None

    def _fullness(self, view: HostView) -> float:
        adapters, load, host = self.registrations.adapters(), view.load, view.spec
        num_bytes = sum(adapters[version].num_bytes for version in view.copies if version in adapters)
        busy = (load.num_running + load.num_waiting) / max(1, host.max_sequences)
        return num_bytes / max(1, host.host_bytes) + busy + len(self.orders.waiting(host.name))
