"""Both ends of the transfer benchmark: two processes of one JAX world. Owns: what they send each other, and the clock.

The second end leads: it tells the first by gRPC what to launch, and times until the bytes are there. Run as
`python -m benchmarks.transfer_ends END RENDEZVOUS ROUNDS SIZES`; the second end prints the seconds as JSON.
Does not: judge them (transfer.py does).
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import grpc
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cluster import world
from cluster.collective import WorldLinks
from cluster.config import WorldConfig
from cluster.peer import CHUNK_BYTES, Peer, Prepares, pull
from cluster.tickets import Tickets
from cluster.view import Adapter, HostName
from lorajax.adapter_pages import DTYPES, HostAdapter, from_bytes, pieces, to_bytes
from lorajax.spec import ROWS_PER_PAGE, TARGETS, AdapterSpec, Version, num_rank_pages

WAYS = ("collective", "permute", "checked", "stream", "grpc")
"""Ours in bytes alone, the bare permute, ours made and checked as a host does, ours by gRPC, the bare gRPC stream."""
_SENDER, _RECEIVER = HostName("0"), HostName("1")
_KEY, _WAIT_S = "benchmark-sender", 60.0
_OPTIONS = (("grpc.max_receive_message_length", 2 * CHUNK_BYTES),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """An adapter to send, by its shape."""

    name: str
    rank: int
    num_layers: int
    widths: Sequence[tuple[int, int]]
    """(in, out) of each target."""

    def adapter(self) -> HostAdapter:
        """One with pages of random bits, the same at every call."""
        draw, dtype = np.random.default_rng(self.rank), DTYPES["bfloat16"]
        rows = (self.num_layers, num_rank_pages(self.rank), ROWS_PER_PAGE)
        targets = TARGETS[: len(self.widths)]
        sides = [
            {
                target: draw.integers(0, 2**16, (*rows, width[side]), np.uint16).view(dtype)
                for target, width in zip(targets, self.widths, strict=True)
            }
            for side in (0, 1)
        ]
        num_bytes = sum(pages.nbytes for side in sides for pages in side.values())
        version = Version(self.name.encode().hex().ljust(64, "0"))
        spec = AdapterSpec(version=version, rank=self.rank, targets=targets, num_bytes=num_bytes)
        return HostAdapter(spec=spec, a=sides[0], b=sides[1])


def as_json(sizes: Sequence[Size]) -> str:
    """What `main` reads."""
    return json.dumps([asdict(size) for size in sizes])


class _Parcel:
    """An adapter, its buffer, and the bare permute of as many bytes."""

    def __init__(self, size: Size) -> None:
        self.adapter = size.adapter()
        self.buffer = to_bytes(self.adapter)
        mesh = Mesh(np.array(world.devices_of(range(2)))[:, None], ("host", "device"), axis_types=(AxisType.Auto,) * 2)
        spec = PartitionSpec("host", "device")
        move = jax.shard_map(
            lambda row: jax.lax.ppermute(row, "host", [(0, 1)]), mesh=mesh, in_specs=spec, out_specs=spec
        )
        row = jax.device_put(np.frombuffer(self.buffer, np.uint8)[None], jax.local_devices()[0])
        shape = (2, len(self.buffer))
        self._rows = jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), [row])
        self._move = jax.jit(move).lower(self._rows).compile()

    def permute(self) -> None:
        """One side of the bare permute; both must call it."""
        jax.block_until_ready(self._move(self._rows))


def main(end: int, rendezvous: str, rounds: int, sizes: Sequence[Size]) -> None:
    """Be one end; the first one until it is killed."""
    world.join(WorldConfig(rendezvous=rendezvous, process=end, num_processes=2))
    parcels = {size.name: _Parcel(size) for size in sizes}
    links = WorldLinks(lambda host: int(host))
    if end == 0:
        asyncio.run(_send(parcels, Tickets(links, _SENDER, 1)))
    else:
        print(json.dumps(asyncio.run(_Lead(parcels, Tickets(links, _RECEIVER, 1)).measured(rounds))))


async def _send(parcels: dict[str, _Parcel], tickets: Tickets) -> None:
    """The first end: a host's Peer service, beside it a bare stream and a call that starts our half of a collective."""
    known = {parcel.adapter.spec.version: parcel.adapter for parcel in parcels.values()}
    running: set[asyncio.Future[object]] = set()

    async def export(version: Version) -> HostAdapter:
        return known[version]

    async def launch(message: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        way, name, ticket = json.loads(message)
        parcel = parcels[name]
        work: Awaitable[object]
        if way == "permute":
            work = asyncio.to_thread(parcel.permute)
        elif way == "checked":
            work = tickets.send(ticket, _RECEIVER, lambda: asyncio.to_thread(pieces, parcel.adapter))
        else:
            work = tickets.send(ticket, _RECEIVER, partial(_given, parcel.buffer))
        running.add(task := asyncio.ensure_future(work))
        task.add_done_callback(running.discard)
        return b""

    async def stream(message: bytes, _context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        view = memoryview(parcels[message.decode()].buffer)
        for start in range(0, len(view), CHUNK_BYTES):
            yield bytes(view[start : start + CHUNK_BYTES])

    server = grpc.aio.server(options=_OPTIONS)
    own = {
        "Launch": grpc.unary_unary_rpc_method_handler(launch),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    peer = Peer(export, tickets.prepared)
    server.add_generic_rpc_handlers((peer.handlers(), grpc.method_handlers_generic_handler("lorajax.benchmark", own)))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    world.announce(_KEY, f"127.0.0.1:{port}")
    await server.wait_for_termination()


async def _given(buffer: bytes) -> Sequence[memoryview]:
    return [memoryview(buffer)]


class _Lead:
    """The second end."""

    def __init__(self, parcels: dict[str, _Parcel], tickets: Tickets) -> None:
        self._parcels, self._tickets = parcels, tickets
        self._address = world.look_up(_KEY, _WAIT_S)
        self._prepares = Prepares()
        self._ticket = 0
        self._ways: dict[str, Callable[[str], Awaitable[None]]] = {
            "collective": self._collective,
            "permute": self._permute,
            "checked": self._checked,
            "stream": self._stream,
            "grpc": self._grpc,
        }

    async def measured(self, rounds: int) -> dict[str, dict[str, list[float]]]:
        """Seconds of each way, size by size; the ways take turns, after one round that is not counted."""
        took_s: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in self._parcels}
        async with grpc.aio.insecure_channel(self._address) as channel:
            self._launch = channel.unary_unary("/lorajax.benchmark/Launch")
            for number in range(-1, rounds):
                for name in self._parcels:
                    for turn in range(len(WAYS)):
                        way = WAYS[(turn + number) % len(WAYS)]
                        began_s = time.perf_counter()
                        await self._ways[way](name)
                        if number >= 0:
                            took_s[name][way].append(time.perf_counter() - began_s)
        await self._prepares.close()
        return took_s

    async def _begin(self, way: str, name: str) -> int:
        self._ticket += 1
        await self._launch(json.dumps([way, name, self._ticket]).encode())
        return self._ticket

    async def _receive(self, way: str, name: str) -> memoryview:
        ticket = await self._begin(way, name)
        return await self._tickets.receive(ticket, _SENDER, partial(self._prepares.ask, self._address))

    async def _collective(self, name: str) -> None:
        await self._receive("collective", name)

    async def _checked(self, name: str) -> None:
        buffer = await self._receive("checked", name)
        await asyncio.to_thread(from_bytes, buffer, self._parcels[name].adapter.spec.version)

    async def _permute(self, name: str) -> None:
        await self._begin("permute", name)
        await asyncio.to_thread(self._parcels[name].permute)

    async def _stream(self, name: str) -> None:
        spec = self._parcels[name].adapter.spec
        wanted = Adapter(version=spec.version, rank=spec.rank, num_bytes=spec.num_bytes, path="")
        await pull(self._address, wanted)

    async def _grpc(self, name: str) -> None:
        """The bytes on a channel of their own, as `pull` opens one, into nothing."""
        async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            num_bytes = 0
            async for chunk in channel.unary_stream("/lorajax.benchmark/Stream")(name.encode()):
                num_bytes += len(chunk)
        assert num_bytes == len(self._parcels[name].buffer)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), [Size(**size) for size in json.loads(sys.argv[4])])
