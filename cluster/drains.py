"""Hosts that are to leave. Owns: when each is told to. Does not: place what they hold, or answer calls."""

import math
from dataclasses import dataclass, field

from cluster.events import DrainHost
from cluster.hosts import Hosts
from cluster.orders import Orders
from cluster.registrations import Registrations
from cluster.view import HostName, HostState


@dataclass(slots=True, kw_only=True)
class Drains:
    """Invariant: a host is told to drain once another serves all it holds, nobody else serves, or it waited `wait_s`.

    Owner: the coordinator.
    """

    hosts: Hosts
    registrations: Registrations
    orders: Orders
    wait_s: float
    _since_s: dict[HostName, float] = field(default_factory=dict)
    """Of the hosts that are still to be told."""

    def ask(self, host: HostName, now_s: float) -> None:
        """Send the host nothing more, and tell it to end as soon as it can be spared."""
        self.hosts.drain(host)
        self._since_s[host] = now_s

    def joined(self, host: HostName) -> None:
        """Tell a host again that has a new connection in the same life; forget it in a new life."""
        if self.hosts.is_told_to_drain(host):
            self._since_s.setdefault(host, -math.inf)
        else:
            self._since_s.pop(host, None)

    def settle(self, now_s: float) -> None:
        """Tell the hosts that can be spared by now."""
        for host, since_s in tuple(self._since_s.items()):
            view = self.hosts.view(host)
            if view is None:
                del self._since_s[host]
            elif view.state is not HostState.LOST and (now_s - since_s >= self.wait_s or self._is_spare(host)):
                del self._since_s[host]
                self.orders.send(DrainHost(number=self.orders.number(), host=host))

    def _is_spare(self, host: HostName) -> bool:
        view, known = self.hosts.view(host), self.registrations.adapters()
        assert view is not None, "asked of hosts that live"
        return not self.hosts.serving() or all(
            any(other.state is HostState.SERVING for other in self.hosts.holders(version))
            for version in view.copies
            if version in known and view.holds(version)
        )
