"""The front door's process. Owns: its life, and its line to the coordinator. Does not: route (front_door.py does).

It needs no JAX and keeps serving by the last table while the coordinator is down.
"""

import asyncio
import logging
import random

import grpc

from cluster import control_pb2, control_pb2_grpc, proxy
from cluster.cluster_config import ClusterConfig
from cluster.follower import Follower
from cluster.front_door import FrontDoor
from cluster.host_channels import HostChannels
from cluster.operating_points import DEFAULT, OperatingPoints, read
from cluster.routing import Router, RouterConfig
from cluster.routings import named
from cluster.server import Server, until_told

_LOG = logging.getLogger("lorajax")
_MIN_WAIT_S, _MAX_WAIT_S = 0.1, 0.5
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 2000),  # the keepalive timeout does not shorten it (grpc 1.85)
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # the time that a connection may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
)


def run(config: ClusterConfig, *, grpc_address: str, coordinator: str) -> int:
    """Serve the front door until told to go; returns the exit code. Raises ValueError if the address is taken."""
    asyncio.run(_serve(config, grpc_address, coordinator))
    return 0


def front_door(config: ClusterConfig) -> FrontDoor:
    """A front door as the configuration wants it."""
    targets = RouterConfig(ttft_p95_s=config.ttft_p95_s, tbt_p95_s=config.tbt_p95_s)
    return FrontDoor(Router(targets, points(config), named(config.routing)), HostChannels())


def points(config: ClusterConfig) -> OperatingPoints:
    """What `lorajax profile` measured, or the built-in ones. Raises: ValueError naming the file."""
    path = config.operating_points
    try:
        return DEFAULT if path is None else read(path)
    except OSError as error:
        raise ValueError(
            f"placement.operating_points is {path}: {error.strerror}; name a file that can be read"
        ) from None


async def _serve(config: ClusterConfig, address: str, coordinator: str) -> None:
    door = front_door(config)
    async with grpc.aio.insecure_channel(coordinator, options=_CHANNEL_OPTIONS) as channel:
        server = Server((door.handlers(), *proxy.handlers(("Adapters", "Cluster"), channel)))

        async def drain() -> None:
            await server.set_serving(is_serving=False)
            door.drain()
            await door.wait_empty()

        await server.start(address)
        try:
            await until_told(_follow(Follower(door, server.set_serving), channel, address), drain, config.drain_s)
        finally:
            await server.stop()
            await door.close()


async def _follow(follower: Follower, channel: grpc.aio.Channel, name: str) -> None:
    """Apply the coordinator's updates as they come; for ever, through its restarts."""
    stub = control_pb2_grpc.ControlStub(channel)
    wait_s = _MIN_WAIT_S
    while True:
        try:
            async for update in stub.WatchTable(control_pb2.WatchTableRequest(name=name)):
                await follower.apply(update)
                wait_s = _MIN_WAIT_S
        except grpc.aio.AioRpcError as error:
            _LOG.info("the coordinator does not answer (%s); serving by the last table", error.code().name)
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
        wait_s = min(2 * wait_s, _MAX_WAIT_S)
