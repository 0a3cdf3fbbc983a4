"""The front door's process. Owns: its life, its protocols, its line to the coordinator.

Does not: route (front_door.py does). It needs no JAX and keeps serving by the last table while the coordinator is down.
"""

import asyncio
import importlib
import logging
import random

import grpc
from prometheus_client import CollectorRegistry

from cluster import control_pb2, control_pb2_grpc, proxy
from cluster.cluster_config import ClusterConfig
from cluster.follower import Follower
from cluster.front_door import FrontDoor
from cluster.host_channels import HostChannels
from cluster.metrics import Metrics
from cluster.operating_points import DEFAULT, OperatingPoints, read
from cluster.routing import Router, RouterConfig
from cluster.routings import named
from cluster.seams import Front, NoFront
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


def run(config: ClusterConfig, *, grpc_address: str) -> int:
    """Serve the front door until told to go; returns the exit code. Raises ValueError if an address is taken."""
    asyncio.run(_serve(config, grpc_address))
    return 0


def front_door(config: ClusterConfig, metrics: Metrics) -> FrontDoor:
    """A front door as the configuration wants it."""
    targets = RouterConfig(ttft_p95_s=config.ttft_p95_s, tbt_p95_s=config.tbt_p95_s)
    return FrontDoor(Router(targets, points(config), named(config.routing)), HostChannels(), metrics)


def points(config: ClusterConfig) -> OperatingPoints:
    """What `lorajax profile` measured, or the built-in ones. Raises: ValueError naming the file."""
    path = config.operating_points
    try:
        return DEFAULT if path is None else read(path)
    except OSError as error:
        raise ValueError(
            f"placement.operating_points is {path}: {error.strerror}; name a file that can be read"
        ) from None


async def _serve(config: ClusterConfig, address: str) -> None:
    metrics = Metrics(CollectorRegistry())
    door = front_door(config, metrics)
    metrics.watch_cluster(door.snapshot)
    async with grpc.aio.insecure_channel(config.coordinator, options=_CHANNEL_OPTIONS) as channel:
        server = Server((door.handlers(), *proxy.handlers(("Adapters", "Cluster"), channel, door.follow)), metrics)
        front = _http(config, door, channel, server, metrics)

        async def drain() -> None:
            await server.set_serving(is_serving=False)
            door.flights.drain()
            await door.flights.wait_empty()

        await server.start(address)
        try:
            await front.start()
            await until_told(_follow(Follower(door, server.set_serving), channel, address), drain, config.drain_s)
        finally:
            door.flights.end_all()
            await asyncio.gather(server.stop(), front.stop())
            await door.close()


def _http(
    config: ClusterConfig, door: FrontDoor, coordinator: grpc.aio.Channel, server: Server, metrics: Metrics
) -> Front:
    """What answers HTTP; its libraries are an optional extra, so they are imported only where it is asked for."""
    if config.http is None:
        return NoFront()
    try:
        http = importlib.import_module("cluster.http_gateway")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"cluster.http needs {error.name}, which is not installed; pip install 'lorajax[http]'"
        ) from None
    services = http.Cluster(door, coordinator, lambda: server.is_serving)
    return http.gateway_front(config.http, config.model, services, metrics)


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
