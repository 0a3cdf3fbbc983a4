"""How adapters share one host. Owns: how many requests want each, whose turn it is, what room a start leaves to others.

Does not: know what runs, or start anything. Fair shares without a limit (Sheng et al. 2024, arXiv 2401.00588) have the
popular adapter wait for all that a host is short of; here each lets others pass for a bounded time, and leaves room to
them until somebody has come after it.
"""

from collections import Counter
from collections.abc import Sequence as Row
from heapq import nsmallest

from lorajax.pages import PagePool
from lorajax.sequence import Sequence
from lorajax.spec import Version

_YIELD_S = 30.0
"""How long a request would let those of others pass if its adapter had all the share: in proportion it lets them pass.
Longer, a crowd waits more for itself; but where a host is short of room anyway, so do all who use a popular adapter."""
_ROOM = 0.2
"""Of the KV pool: what such a request leaves free, in proportion, for others that are still to come."""


class Shares:
    """The requests on one host by the set of adapters that they want, mostly one; those of the base model want none.

    An adapter's share is its part of them. The larger it is, the longer its requests let others pass, and the more room
    they leave others to start: a crowd on one adapter waits for itself. An adapter that is alone is served as it comes.
    Invariant: counts what has joined and not left. Owner: the scheduler.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._num_of: Counter[tuple[Version, ...]] = Counter()
        self._num = 0
        self._latest_s = 0.0

    def join(self, sequence: Sequence) -> None:
        """Count one more request, which is the latest."""
        self._num_of[sequence.versions] += 1
        self._num += 1
        self._latest_s = sequence.submitted_s

    def leave(self, sequence: Sequence) -> None:
        """Count one less."""
        self._num_of[sequence.versions] -= 1
        self._num -= 1
        if not self._num_of[sequence.versions]:
            del self._num_of[sequence.versions]

    def in_turn(self, waiting: Row[Sequence], limit: int) -> Row[Sequence]:
        """The first of those that wait, which are given by (priority, arrival): by priority and turn.

        Requests for one adapter stay in their order. Who ever had no room for its adapters lets nobody pass: there are
        other rules for that, which count. Cost: a third of a microsecond for each that waits.
        """
        if len(waiting) < 2 or len(self._num_of) < 2:
            return waiting[:limit]
        yields_s = {versions: _YIELD_S * num / self._num for versions, num in self._num_of.items()}

        def turn(one: Sequence) -> tuple[int, float, int]:
            yield_s = 0.0 if one.was_short else yields_s[one.versions]
            return (-one.request.priority, one.submitted_s + yield_s, one.arrival)

        return nsmallest(limit, waiting, key=turn)

    def must_yield(self, sequence: Sequence, kv: PagePool) -> bool:
        """Whether one that has a place leaves it to others: little room is left, and its turn is still to come.

        That is known by the latest arrival, not by the clock: nothing changes while nothing comes.
        """
        share = self._num_of[sequence.versions] / self._num
        if len(self._num_of) < 2 or sequence.was_short or sequence.submitted_s + _YIELD_S * share <= self._latest_s:
            return False
        return kv.num_free < _ROOM * share * kv.num_total
