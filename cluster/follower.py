"""Keeps a front door up to date. Owns: which tables it believes, and when it may say that it serves."""

from collections.abc import Awaitable, Callable

from cluster import control_pb2, control_wire
from cluster.front_door import FrontDoor


class Follower:
    """Applies the coordinator's updates to one front door.

    Invariant: once a table was ready, only ready ones replace it: a coordinator that has just come back knows no hosts
    yet, and what it knew before is still the best there is.
    """

    def __init__(self, front_door: FrontDoor, set_serving: Callable[[bool], Awaitable[None]]) -> None:
        """Follow nothing yet; `set_serving` hears whether requests can be answered."""
        self._front_door = front_door
        self._set_serving = set_serving
        self._is_ready = False
        self._is_serving = False

    async def apply(self, update: control_pb2.TableUpdate) -> None:
        """Take one update."""
        if update.HasField("table"):
            await self._take(update.table)
        for one in update.beats.beats:
            beat = control_wire.beat_from_proto(one.host, 0, one.beat, 0.0)
            self._front_door.beat(beat.host, beat.state, beat.load, beat.copies)

    async def _take(self, table: control_pb2.Table) -> None:
        if self._is_ready and not table.is_ready:
            return
        self._is_ready = table.is_ready
        self._front_door.update(control_wire.table_from_proto(table))
        if (is_serving := self._is_ready and self._front_door.num_serving > 0) != self._is_serving:
            self._is_serving = is_serving
            await self._set_serving(is_serving)
