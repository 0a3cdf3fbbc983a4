"""Hosts of a cluster over loopback. Owns: a coordinator that says what a test tells it to, and adapters with pages."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np

from cluster import control_pb2, control_pb2_grpc
from cluster.control_wire import outcome_from_proto
from cluster.membership import MemberConfig, Membership
from cluster.view import Adapter
from lorajax.adapter_pages import HostAdapter, LowRank, pack
from lorajax.spec import Version
from tests.cluster.rig import Rig, serving
from tests.fakes import model_spec, read_adapter, write_adapter

MODEL = model_spec()


def read_pages(folder: Path, *, expect: Version | None = None) -> HostAdapter:
    """What `write_adapter` wrote, with pages that follow from it."""
    spec = read_adapter(folder, expect=expect).spec
    chance = np.random.default_rng(len(json.loads((folder / "adapter.json").read_text())["content"]))
    a, b = (chance.standard_normal((spec.rank, 8), np.float32) for _ in range(2))
    return pack({(0, "q_proj"): LowRank(a=a, b=b.T)}, model=MODEL, version=spec.version)


def made(folder: Path, content: str = "weights", rank: int = 8) -> tuple[HostAdapter, Adapter]:
    """An adapter in a folder: its pages, and how the coordinator knows it."""
    pages = read_pages(write_adapter(folder, content, rank))
    spec = pages.spec
    return pages, Adapter(version=spec.version, rank=spec.rank, num_bytes=spec.num_bytes, path=str(folder))


class Line:
    """One host's connection to the scripted coordinator."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[control_pb2.HostMessage] = asyncio.Queue()
        self.has_ended = asyncio.Event()
        """Whether the connection is over."""
        self._orders: asyncio.Queue[control_pb2.HostCommand | None] = asyncio.Queue()

    def order(self, number: int, **kind) -> None:
        """Tell the host something."""
        self._orders.put_nowait(control_pb2.HostCommand(number=number, **kind))

    def cut(self) -> None:
        """End it."""
        self._orders.put_nowait(None)

    async def hello(self) -> control_pb2.Hello:
        """The first message."""
        message = await self.heard.get()
        assert message.HasField("hello")
        return message.hello

    async def beat(self, is_wanted=lambda beat: True) -> control_pb2.Beat:
        """The next beat that is wanted; what comes before is lost."""
        while not ((message := await self.heard.get()).HasField("beat") and is_wanted(message.beat)):
            pass
        return message.beat

    async def until_outcome(self) -> list[control_pb2.HostMessage]:
        """What is said up to the next outcome, which is last."""
        said = [await self.heard.get()]
        while not said[-1].HasField("outcome"):
            said.append(await self.heard.get())
        return said

    async def outcome(self):
        """The next outcome, as a record."""
        return outcome_from_proto((await self.until_outcome())[-1].outcome)

    async def orders(self) -> AsyncIterator[control_pb2.HostCommand]:
        while (order := await self._orders.get()) is not None:
            yield order


class Coordinator(control_pb2_grpc.ControlServicer):
    """Answers hosts as a test tells it to."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[Line] = asyncio.Queue()

    async def line(self) -> Line:
        """The next connection of a host."""
        return await self._lines.get()

    async def Join(self, messages, context):
        line = Line()
        self._lines.put_nowait(line)

        async def hear():
            async for message in messages:
                line.heard.put_nowait(message)

        hearing = asyncio.create_task(hear())
        try:
            async for order in line.orders():
                yield order
        finally:
            hearing.cancel()
            line.has_ended.set()


@contextlib.asynccontextmanager
async def coordinating(port: int = 0) -> AsyncIterator[tuple[Coordinator, int]]:
    """A coordinator and its port, until the block ends."""
    server, coordinator = grpc.aio.server(options=(("grpc.so_reuseport", 0),)), Coordinator()
    control_pb2_grpc.add_ControlServicer_to_server(coordinator, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield coordinator, port
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def host(root: Path, port: int, **options) -> AsyncIterator[Rig]:
    """A host of a cluster whose coordinator listens at a port of this machine, or not."""
    config = MemberConfig(
        coordinator=f"127.0.0.1:{port}",
        fingerprint="tiny/float32",
        incarnation=7,
        host_bytes=1000,
        max_sequences=4,
        speed=0.5,
    )
    async with serving(root, make_member=functools.partial(Membership, config), read=read_pages, **options) as rig:
        yield rig


@contextlib.asynccontextmanager
async def member(root: Path, **options) -> AsyncIterator[tuple[Rig, Line]]:
    """A host that has said hello, and its line."""
    async with coordinating() as (coordinator, port), host(root, port, **options) as rig:
        line = await coordinator.line()
        await line.hello()
        yield rig, line
