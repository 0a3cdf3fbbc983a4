"""Adapters kept on the devices that serve them. Owns: which hosts were told to keep which. Pins nothing itself."""

from dataclasses import dataclass, field

from cluster.events import PinAdapter
from cluster.hosts import Hosts
from cluster.orders import Orders
from cluster.registrations import Registrations
from cluster.view import HostName, Shares
from lorajax.spec import Version


@dataclass(slots=True, kw_only=True)
class Pins:
    """Invariant: after `settle`, every host with traffic and a copy of a pinned adapter was told to keep it, no other.

    Owner: the coordinator.
    """

    hosts: Hosts
    registrations: Registrations
    orders: Orders
    _told: set[tuple[HostName, Version]] = field(default_factory=set)

    def settle(self, shares: Shares) -> None:
        """Tell hosts what to keep on the device, and what no longer."""
        wanted = {
            (view.spec.name, version)
            for version in self.registrations.pinned()
            for view in self.hosts.holders(version)
            if any(share.host == view.spec.name and share.share > 0 for share in shares.get(version, ()))
        }
        for host, version in sorted(wanted - self._told):
            self._tell(host, version, pin=True)
        for host, version in sorted(self._told - wanted):
            if any(view.spec.name == host for view in self.hosts.holders(version)):
                self._tell(host, version, pin=False)
        self._told = wanted

    def failed(self, command: PinAdapter) -> None:
        """Try again when next settled."""
        if command.pin:
            self._told.discard((command.host, command.version))

    def lose(self, host: HostName) -> None:
        """Expect nothing of a lost host: in its next life it keeps nothing."""
        self._told = {(name, version) for name, version in self._told if name != host}

    def _tell(self, host: HostName, version: Version, *, pin: bool) -> None:
        self.orders.send(PinAdapter(number=self.orders.number(), host=host, version=version, pin=pin))
