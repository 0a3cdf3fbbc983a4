"""A whole cluster in the test's own process: coordinator, one host, and a gateway that answers gRPC and HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from cluster import control_pb2_grpc, proxy, serving_pb2_grpc
from cluster.admin import ClusterAdapters
from cluster.control_service import ControlService
from cluster.coordinator import Coordinator, CoordinatorConfig
from cluster.follower import Follower
from cluster.front_door import FrontDoor
from cluster.host_channels import HostChannels
from cluster.http_front import Served, http_front
from cluster.http_gateway import Cluster
from cluster.membership import MemberConfig, Membership
from cluster.metrics import Metrics
from cluster.operating_points import DEFAULT
from cluster.placement import POLICIES
from cluster.registry import Registry
from cluster.routing import Router, RouterConfig
from cluster.server import Server
from tests.cluster.host_rig import read_pages
from tests.cluster.rig import Rig, serving
from tests.fakes import ByteTokenizer, model_spec

FINGERPRINT = "tiny/float32"


@contextlib.asynccontextmanager
async def gateway_serving(root: Path, *, model=None, is_open=True, **options) -> AsyncIterator[Rig]:
    """A rig of the one host whose addresses and metrics are the gateway's."""
    model = model or model_spec()
    async with _coordinating(root) as (control, coordinator):
        member = MemberConfig(
            coordinator=coordinator,
            fingerprint=FINGERPRINT,
            incarnation=1,
            host_bytes=2**20,
            max_sequences=4,
        )
        joining = partial(Membership, member)
        async with (
            serving(root, make_member=joining, read=read_pages, model=model, is_open=is_open, **options) as rig,
            _gateway(control, coordinator, model.max_model_len) as (addresses, is_serving, registry),
            grpc.aio.insecure_channel(addresses["grpc"]) as channel,
        ):
            if is_open:
                await is_serving.wait()
            yield replace(rig, channel=channel, addresses=addresses, registry=registry)


@contextlib.asynccontextmanager
async def _coordinating(root: Path) -> AsyncIterator[tuple[ControlService, str]]:
    registry = Registry(root / "registry.sqlite")
    coordinator = Coordinator(CoordinatorConfig(settle_s=0.0, interval_s=0.2), DEFAULT, POLICIES["ours"])
    control = ControlService(coordinator, registry, FINGERPRINT)
    control.is_ready = True
    server = Server((), Metrics(CollectorRegistry()))
    control_pb2_grpc.add_ControlServicer_to_server(control, server.grpc)
    serving_pb2_grpc.add_AdaptersServicer_to_server(ClusterAdapters(control), server.grpc)
    port = server.grpc.add_insecure_port("127.0.0.1:0")
    await server.grpc.start()
    ticking = asyncio.create_task(control.run())
    try:
        yield control, f"127.0.0.1:{port}"
    finally:
        control.close()
        ticking.cancel()
        await server.stop()
        registry.close()


@contextlib.asynccontextmanager
async def _gateway(
    control: ControlService, coordinator: str, max_model_len: int
) -> AsyncIterator[tuple[dict[str, str], asyncio.Event, CollectorRegistry]]:
    """Where it answers, and whether it has said that it serves."""
    registry, is_serving = CollectorRegistry(), asyncio.Event()
    metrics = Metrics(registry)
    door = FrontDoor(Router(RouterConfig(), DEFAULT), HostChannels(), metrics)
    metrics.watch_cluster(door.snapshot)
    async with grpc.aio.insecure_channel(coordinator) as channel:
        server = Server((door.handlers(), *proxy.handlers(("Adapters",), channel, door.follow)), metrics)
        served = Served(
            model_name="tiny", max_model_len=max_model_len, max_streams=64, token_text=ByteTokenizer().token_text
        )
        front = http_front("127.0.0.1:0", served, Cluster(door, channel, lambda: server.is_serving), metrics)
        port = server.grpc.add_insecure_port("127.0.0.1:0")
        await server.grpc.start()

        async def set_serving(serving: bool) -> None:
            await server.set_serving(serving)
            is_serving.set()

        following = asyncio.create_task(_follow(control, Follower(door, set_serving)))
        try:
            yield {"grpc": f"127.0.0.1:{port}", **await front.start()}, is_serving, registry
        finally:
            following.cancel()
            await asyncio.gather(server.stop(), front.stop())
            await door.close()


async def _follow(control: ControlService, follower: Follower) -> None:
    with control.watching() as updates:
        while (update := await updates.get()) is not None:
            await follower.apply(update)
