"""What a copy that nobody planned must be worth. Owns: how many requests each adapter has open. Does not: choose hosts.

Memory and links pay by the byte, and every open request of an adapter may use its copies: so the price is in bytes per
request, beside those of the mean adapter. A small adapter leaves a busy host before a large one does, a crowd soon has
hosts enough, and an adapter with one request now and then stays where it is.

The mean price rises with the time that requests take: when a host will be done differs from the next one's by a part of
that, whatever first tokens may take.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from cluster.view import Adapter
from lorajax.spec import Version

_PART = 0.2
"""Of the mean time that a request takes. At half of it hosts hold up to a seventh more where first tokens are due in
2 s; at half as much again, the others wait a tenth longer beside a crowd."""
_WEIGHT = 0.02
"""Of the last request in the mean of all."""


class CopyPrice:
    """Prices by what is open at one front door.

    Invariant: an adapter is counted exactly while it has open requests; bytes are those of the last `update`.
    Owner: the front door's event loop.
    """

    def __init__(self, least_s: float) -> None:
        """A copy of the mean adapter, with as many requests open as the mean, costs `least_s` or more."""
        self._least_s = least_s
        self._took_s = 0.0
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

    def took(self, seconds: float) -> None:
        """Know how long a request took that was answered."""
        self._took_s += _WEIGHT * (seconds - self._took_s)

    def closed(self, versions: Iterable[Version]) -> None:
        """Count it no more."""
        for version in versions:
            self._open[version] -= 1
            self._num_open -= 1
            if not self._open[version]:
                del self._open[version]

    def price_s(self, version: Version) -> float:
        """Seconds that a host must be sooner for one more copy of the adapter; the mean price of an unknown one."""
        mean_s = max(self._least_s, _PART * self._took_s)
        if version not in self._adapters:
            return mean_s
        # One request more on both sides: the one that asks, and then no count is 0.
        per_request = self._adapters[version].num_bytes / (1 + self._open[version])
        mean = self._mean_bytes / (1 + self._num_open / len(self._adapters))
        return mean_s * per_request / mean
