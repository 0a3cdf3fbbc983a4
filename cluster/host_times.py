"""The hosts that a front door knows. Owns: their estimates by name, and who is least busy. Does not: choose."""

import bisect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from cluster.host_time import HostTime
from cluster.view import HostLoad, HostName, HostState, HostView
from lorajax.spec import Level, Version

_ANSWERING = (HostState.SERVING, HostState.DRAINING)


class HostTimes:
    """Estimates of every host of the table.

    Invariant: hosts that answer are in order of `busy_s` as of their last change. A change costs a binary search.
    Owner: the front door's event loop.
    """

    def __init__(self, cost_s: float) -> None:
        """Know no host; `cost_s` is what a token costs where nothing better is known."""
        self._cost_s = cost_s
        self._hosts: dict[HostName, HostTime] = {}
        self._order: list[tuple[float, HostName]] = []
        self._busy_s: dict[HostName, float] = {}

    def __getitem__(self, name: HostName) -> HostTime:
        """The estimate of a known host."""
        return self._hosts[name]

    def get(self, name: HostName) -> HostTime | None:
        """The estimate of a host; None where it is not known."""
        return self._hosts.get(name)

    def __iter__(self) -> Iterator[HostName]:
        """The hosts that answer, least busy first."""
        return (name for _, name in self._order)

    def is_serving(self, name: HostName) -> bool:
        """Whether requests may be sent there."""
        return name in self._hosts and self._hosts[name].state is HostState.SERVING

    def update(self, views: Mapping[HostName, HostView]) -> None:
        """Know these hosts alone. The load that one that lives on has told since is kept."""
        hosts = {name: self._host(view) for name, view in views.items()}
        for name in self._hosts.keys() - hosts.keys():
            self._leave(name)
        self._hosts = hosts
        for name in hosts:
            self.reorder(name)

    def beat(
        self,
        name: HostName,
        state: HostState,
        load: HostLoad,
        copies: Mapping[Version, Level] | None,
        now_s: float,
    ) -> None:
        """Learn what a known host says of itself."""
        if (host := self._hosts.get(name)) is None:
            return
        if state is not HostState.SERVING or host.state is not HostState.DRAINING:  # it may not know yet that it drains
            host.state = state
        if copies is not None:
            host.copies = copies
        host.hear(load, now_s)
        self.reorder(name)

    def came(self, name: HostName, versions: Iterable[Version]) -> None:
        """Know that a host has got adapters, until it tells itself what it has."""
        host = self._hosts.get(name)
        if host is not None and (new := [one for one in versions if not host.holds(one)]):
            host.copies = {**host.copies, **dict.fromkeys(new, Level.HOST)}

    def reorder(self, name: HostName) -> None:
        """See how busy a host is now."""
        self._leave(name)
        host = self._hosts.get(name)
        if host is not None and host.state in _ANSWERING:
            busy_s = self._busy_s[name] = host.busy_s(self._cost_s)
            bisect.insort(self._order, (busy_s, name))

    def holders(
        self, version: Version, names: Iterable[HostName], *, besides: HostName, limit: int
    ) -> tuple[HostName, ...]:
        """The first of the names whose hosts answer and have the adapter in memory."""
        able = (name for name in names if name != besides and name in self._busy_s and self._hosts[name].holds(version))
        return tuple(islice(able, limit))

    def _host(self, view: HostView) -> HostTime:
        host = self._hosts.get(view.spec.name)
        if host is None or host.spec.incarnation != view.spec.incarnation:
            return HostTime(spec=view.spec, state=view.state, load=view.load, copies=view.copies)
        host.spec, host.state, host.copies = view.spec, view.state, view.copies
        return host

    def _leave(self, name: HostName) -> None:
        if name in self._busy_s:
            del self._order[bisect.bisect_left(self._order, (self._busy_s.pop(name), name))]
