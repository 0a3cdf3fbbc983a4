"""What a cluster of ours holds while it is driven. Owns: looking again and again, and what that comes to.

Copies that come and go between two looks are not seen.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from benchmarks.outcomes.records import HostUse, Outcome
from cluster import serving_pb2, serving_pb2_grpc
from lorajax.spec import Level

_LOOK_S = 0.5
_TIMEOUT_S = 10.0

type Copies = Mapping[str, Mapping[str, int]]
"""Host -> adapter version -> bytes, of what is in its memory."""


@dataclass(slots=True)
class Watch:
    """All looks so far. Owner: the task that looks."""

    looks: list[Copies] = field(default_factory=list)
    placements: list[tuple[float, Mapping[str, Mapping[str, float]]]] = field(default_factory=list)

    def hosts(self, outcomes: Iterable[Outcome]) -> Mapping[str, HostUse]:
        """What each host held and answered; how long it was busy cannot be seen from here."""
        tokens: dict[str, int] = {}
        for one in outcomes:
            if one.host:
                tokens[one.host] = tokens.get(one.host, 0) + one.prompt_tokens + one.output_tokens
        names = sorted(tokens.keys() | {name for look in self.looks for name in look})
        return {name: _use([look.get(name, {}) for look in self.looks], tokens.get(name, 0)) for name in names}

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
    adapters = serving_pb2_grpc.AdaptersStub(channel)
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            reply = await adapters.List(serving_pb2.ListAdaptersRequest(), timeout=_TIMEOUT_S)
            watch.looks.append(_copies(reply))
        await asyncio.sleep(_LOOK_S)


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


def _use(held: Sequence[Mapping[str, int]], tokens: int) -> HostUse:
    sums = [sum(copies.values()) for copies in held]
    return HostUse(
        busy_s=0.0,
        tokens=tokens,
        mean_held_bytes=sum(sums) / max(1, len(sums)),
        max_held_bytes=max(sums, default=0),
        max_held_adapters=max(map(len, held), default=0),
    )
