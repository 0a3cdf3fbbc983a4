"""What a cluster of ours holds while it is driven. Owns: looking again and again, and what that comes to.

Copies that come and go between two looks are not seen.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from benchmarks.drive.records import Ending
from benchmarks.outcomes.records import HostUse, Outcome
from cluster import serving_pb2, serving_pb2_grpc
from lorajax.spec import Level

_LOOK_S = 0.5
_LOOK_PART = 0.05
"""Of the time at most: large clusters are looked at less often."""
_TIMEOUT_S = 10.0
_NO_WAIT_S = 1e-3
"""An engine takes as long to see that an adapter is there."""

type Copies = Mapping[str, Mapping[str, int]]
"""Host -> adapter version -> bytes, of what is in its memory."""


@dataclass(slots=True)
class Watch:
    """All looks so far. Owner: the task that looks."""

    looks: list[Copies] = field(default_factory=list)
    placements: list[tuple[float, Mapping[str, Mapping[str, float]]]] = field(default_factory=list)

    def hosts(self, outcomes: Sequence[Outcome], endings: Sequence[Ending | None]) -> Mapping[str, HostUse]:
        """What each host held and answered; how long it was busy cannot be seen from here.

        Nor where an adapter was that a request waited for: in host memory, it is taken.
        """
        answers: dict[str, list[tuple[Outcome, Ending]]] = {}
        for one, ending in zip(outcomes, endings, strict=True):
            if ending is not None and ending.host:
                answers.setdefault(ending.host, []).append((one, ending))
        names = sorted(answers.keys() | {name for look in self.looks for name in look})
        return {name: _use([look.get(name, {}) for look in self.looks], answers.get(name, [])) for name in names}

    @property
    def appeared(self) -> Sequence[int]:
        """Bytes of each copy that was not there at the look before."""
        return [
            num_bytes
            for before, after in zip(self.looks, self.looks[1:], strict=False)
            for host, copies in after.items()
            for version, num_bytes in copies.items()
            if version not in before.get(host, {})
        ]


@contextlib.asynccontextmanager
async def watching(channel: grpc.aio.Channel) -> AsyncIterator[Watch]:
    """Look while the block runs; what cannot be seen, as while the coordinator is away, is left out."""
    watch = Watch()
    start_s = asyncio.get_running_loop().time()
    tasks = [
        asyncio.create_task(_look(channel, watch)),
        asyncio.create_task(_follow(channel, watch, start_s)),
    ]
    try:
        yield watch
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _look(channel: grpc.aio.Channel, watch: Watch) -> None:
    adapters, clock = serving_pb2_grpc.AdaptersStub(channel), asyncio.get_running_loop().time
    while True:
        began_s = clock()
        with contextlib.suppress(grpc.aio.AioRpcError):
            reply = await adapters.List(serving_pb2.ListAdaptersRequest(), timeout=_TIMEOUT_S)
            watch.looks.append(_copies(reply))
        await asyncio.sleep(max(_LOOK_S, (clock() - began_s) / _LOOK_PART))


async def _follow(channel: grpc.aio.Channel, watch: Watch, start_s: float) -> None:
    """The placement at each round; one process alone has none."""
    clock = asyncio.get_running_loop().time
    stream = serving_pb2_grpc.ClusterStub(channel).WatchPlacement(serving_pb2.WatchPlacementRequest())
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for reply in stream:
            shares: dict[str, dict[str, float]] = {}
            for share in reply.shares:
                shares.setdefault(share.adapter, {})[share.host] = share.share
            watch.placements.append((clock() - start_s, shares))


def _copies(reply: serving_pb2.ListAdaptersReply) -> Copies:
    copies: dict[str, dict[str, int]] = {}
    for info in reply.adapters:
        for place in info.residency:
            if place.level != Level.STORE:
                copies.setdefault(place.host, {})[info.version] = info.bytes
    return copies


def _use(held: Sequence[Mapping[str, int]], answers: Sequence[tuple[Outcome, Ending]]) -> HostUse:
    waits_s = [ending.adapter_wait_s for one, ending in answers if one.adapter]
    num_waited = sum(wait_s > _NO_WAIT_S for wait_s in waits_s)
    sums = [sum(copies.values()) for copies in held]
    return HostUse(
        busy_s=0.0,
        tokens=sum(one.prompt_tokens + one.output_tokens for one, _ in answers),
        mean_held_bytes=sum(sums) / max(1, len(sums)),
        max_held_bytes=max(sums, default=0),
        max_held_adapters=max(map(len, held), default=0),
        device_hits=len(waits_s) - num_waited,
        host_hits=num_waited,
        stall_s=sum(waits_s),
    )
