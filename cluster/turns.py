"""Whose turn it is among the hosts of one plan. Owns: how far each host is ahead of its share. Does not: choose."""

from collections.abc import Mapping, Sequence

from cluster.view import HostName, Share, Shares
from lorajax.spec import Version

FAR = 2.0
"""Requests that a host can be ahead or behind: what was long ago is forgiven."""


class Turns:
    """Invariant: a host's lead is its requests less its share of all requests of the version, within `FAR`."""

    def __init__(self) -> None:
        """Start even."""
        self._leads: dict[Version, dict[HostName, float]] = {}
        self._shares: Shares = {}

    def update(self, shares: Shares) -> None:
        """Go by new shares; versions whose shares have changed start even."""
        kept = (one for one in self._leads if one in shares and shares[one] == self._shares.get(one))
        self._leads = {one: self._leads[one] for one in kept}
        self._shares = shares

    def hosts(self, version: Version) -> Sequence[Share]:
        """The hosts that the plan gives the version; those with a share of 0 are spares."""
        return self._shares.get(version, ())

    def leads(self, version: Version) -> Mapping[HostName, float]:
        """How far each host with a share of the version is ahead of it, in requests."""
        if version not in self._leads:
            self._leads[version] = {share.host: 0.0 for share in self.hosts(version) if share.share > 0}
        return self._leads[version]

    def took(self, version: Version, host: HostName) -> None:
        """Count a request that the host was sent."""
        self.leads(version)
        leads = self._leads[version]
        for share in self.hosts(version):
            if share.host in leads:
                lead = leads[share.host] - share.share + (share.host == host)
                leads[share.host] = min(FAR, max(-FAR, lead))
