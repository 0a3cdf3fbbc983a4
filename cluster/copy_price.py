"""What a copy that nobody planned must be worth. Owns: how many requests each adapter has open. Does not: choose hosts.

Memory and links pay by the byte, and every open request of an adapter may use its copies: so the price is in bytes per
request, beside those of the mean adapter. A small adapter leaves a busy host before a large one does, a crowd soon has
hosts enough, and an adapter with one request now and then stays where it is.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from cluster.view import Adapter
from lorajax.spec import Version


class CopyPrice:
    """Prices by what is open at one front door.

    Invariant: an adapter is counted exactly while it has open requests; bytes are those of the last `update`.
    Owner: the front door's event loop.
    """

    def __init__(self, mean_s: float) -> None:
        """A copy of the mean adapter, with as many requests open as the mean, costs `mean_s`."""
        self._mean_s = mean_s
        self._adapters: Mapping[Version, Adapter] = {}
        self._mean_bytes = 1.0
        self._open: Counter[Version] = Counter()
        self._num_open = 0

    def update(self, adapters: Mapping[Version, Adapter]) -> None:
        """Know these adapters alone; what is open of others still counts among all."""
        self._adapters = adapters
        self._mean_bytes = max(1, sum(one.num_bytes for one in adapters.values())) / max(1, len(adapters))

    def opened(self, versions: Iterable[Version]) -> None:
        """Count a request that was sent to some host."""
        for version in versions:
            self._open[version] += 1
            self._num_open += 1

    def closed(self, versions: Iterable[Version]) -> None:
        """Count it no more."""
        for version in versions:
            self._open[version] -= 1
            self._num_open -= 1
            if not self._open[version]:
                del self._open[version]

    def price_s(self, version: Version) -> float:
        """Seconds that a host must be sooner for one more copy of the adapter; the mean price of an unknown one."""
        if version not in self._adapters:
            return self._mean_s
        # One request more on both sides: the one that asks, and then no count is 0.
        per_request = self._adapters[version].num_bytes / (1 + self._open[version])
        mean = self._mean_bytes / (1 + self._num_open / len(self._adapters))
        return self._mean_s * per_request / mean
