"""One host: a grpc.aio server round one engine. Owns: sockets, health, and how a host starts and leaves.

Does not: answer requests itself (cluster/worker_inference.py, worker_adapters.py), or build its parts (launch.py).
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster import serving_pb2, serving_pb2_grpc, wire
from cluster.admission import Admission, State
from cluster.catalogue import Entry
from cluster.config import parse_address
from cluster.guard import Guard
from cluster.metrics import Snapshot
from cluster.seams import Alone, Front, Member, NoFront, Parts, WorkerConfig
from cluster.worker_adapters import Adapters
from cluster.worker_inference import MAX_BYTES_PER_TOKEN, Inference
from lorajax.errors import BadRequest, NeedsCluster, Unavailable

SERVICES = tuple(service.full_name for service in serving_pb2.DESCRIPTOR.services_by_name.values())
_MIN_MESSAGE_BYTES = 16 * 2**20  # a prompt that is far too long still gets our own answer, with both numbers
_MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own
_CLOSE_S = 1.0

type MakeFront = Callable[[WorkerConfig, Parts, Admission, Inference, Adapters], Front]
"""Puts another protocol before the same services."""
type MakeMember = Callable[[WorkerConfig, Parts, Admission, Adapters, Callable[[], int]], Member]
"""Makes the host part of a cluster, which may have it drained."""


class Worker:
    """One host on one event loop: `start`, `open`, and after `drain` `run` returns; then `stop`."""

    def __init__(
        self,
        config: WorkerConfig,
        parts: Parts,
        make_front: MakeFront = lambda *_: NoFront(),
        make_member: MakeMember = lambda *_: Alone(),
    ) -> None:
        """Put the services together; nothing listens yet."""
        self._config = config
        self._parts = parts
        self._admission = Admission(config.max_streams)
        self._adapters = Adapters(config, parts, self._admission)
        self._draining = asyncio.Event()
        self._hurried = asyncio.Event()
        self._started_s = time.monotonic()
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(Guard(parts.metrics),), options=_options(config))
        self._member = make_member(config, parts, self._admission, self._adapters, self.drain)
        inference = Inference(config, parts, self._admission, self._adapters.forget, self._member)
        self._front = make_front(config, parts, self._admission, inference, self._adapters)
        serving_pb2_grpc.add_InferenceServicer_to_server(inference, self._server)
        serving_pb2_grpc.add_AdaptersServicer_to_server(self._adapters, self._server)
        serving_pb2_grpc.add_ClusterServicer_to_server(_Cluster(self), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._server.add_generic_rpc_handlers(self._member.handlers())
        parts.metrics.watch(self._snapshot)

    async def start(self) -> dict[str, str]:
        """Listen, refusing requests as not ready; returns HOST:PORT of each protocol.

        Raises: ValueError if an address is taken.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self._server.add_insecure_port(self._config.address)
        except RuntimeError as error:
            raise ValueError(
                f"cannot listen on {self._config.address}: in use, or not an address of this machine; "
                "choose another --grpc HOST:PORT"
            ) from error
        await self._server.start()
        host, _ = parse_address(self._config.address)
        addresses = {"grpc": f"{host}:{port}", **await self._front.start()}
        self._member.start(addresses["grpc"])
        return addresses

    async def load(self, name: str, folder: Path, *, pin: bool = False) -> Entry:
        """Register an adapter that the operator named; works before `open`. Raises what `Adapters.load` raises."""
        return await self._adapters.load(name, folder, pin=pin)

    async def open(self) -> None:
        """Let requests in, unless a drain has begun."""
        if self._admission.state is State.STARTING:
            self._admission.state = State.SERVING
            self._member.changed()
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def drain(self) -> int:
        """Let no more requests in; returns how many still run. `run` does the rest."""
        self._admission.state = State.DRAINING
        self._draining.set()
        self._member.changed()
        return len(self._admission)

    def hurry(self) -> None:
        """Drain without waiting for what still runs."""
        self.drain()
        self._hurried.set()

    async def draining(self) -> None:
        """Return once a drain has begun."""
        await self._draining.wait()

    async def run(self) -> None:
        """Serve until a drain has begun and every request has ended, or was cut after `drain_s`."""
        await self._draining.wait()
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await _first_of(self._admission.wait_empty(), self._hurried.wait(), timeout_s=self._config.drain_s)
        self._admission.end_all(Unavailable(f"host {self._config.host} is going; ask again, another host will answer"))

    async def stop(self) -> None:
        """Close every connection; what still runs, such as a reader that does not read, is cut after a second."""
        self._admission.state = State.DRAINING
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(self._server.stop(_CLOSE_S), self._front.stop())
        await self._member.stop()
        await self._adapters.settled()

    def report(self) -> wire.HostReport:
        """How the host is now."""
        now_s = time.monotonic()
        return wire.HostReport(
            name=self._config.host,
            model=self._config.model_name,
            version=self._config.software_version,
            state=self._admission.state,
            adapters=self._adapters.reports(),
            stats=self._parts.engine.stats(),
            tokens_per_s=self._parts.metrics.tokens_per_s(now_s),
            uptime_s=now_s - self._started_s,
        )

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            stats=self._parts.engine.stats(),
            running=self._admission.names(running=True),
            waiting=self._admission.names(running=False),
            now_s=time.time(),
        )

    async def _set_health(self, status: int) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)


class _Cluster:
    """Answers `lorajax.v1.Cluster` for a host that is on its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def Status(
        self, message: serving_pb2.StatusRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.StatusReply:
        return serving_pb2.StatusReply(hosts=[wire.host_to_proto(self._worker.report())])

    async def Drain(
        self, message: serving_pb2.DrainRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.DrainReply:
        name = self._worker.report().name
        if message.host not in ("", name):
            raise BadRequest(f"no host {message.host[:80]!r} here; this is {name!r}", "host")
        return serving_pb2.DrainReply(host=name, num_running=self._worker.drain())

    async def Rebalance(self, message: serving_pb2.RebalanceRequest, context: grpc.aio.ServicerContext) -> None:
        raise NeedsCluster("one process has nothing to rebalance; start a cluster with `lorajax launch`")

    async def WatchPlacement(
        self, message: serving_pb2.WatchPlacementRequest, context: grpc.aio.ServicerContext
    ) -> None:
        raise NeedsCluster("one process has no placement; start a cluster with `lorajax launch`")


async def serve(
    config: WorkerConfig,
    parts: Parts,
    prepare: Callable[[Worker], Awaitable[None]],
    on_ready: Callable[[dict[str, str]], None],
    make_front: MakeFront = lambda *_: NoFront(),
    make_member: MakeMember = lambda *_: Alone(),
) -> None:
    """Run one host until SIGTERM, SIGINT or a `Drain` call has drained it; a second signal cuts what still runs.

    Listens first, then `prepare` (warm-up, `worker.load` of the first adapters), then `on_ready(addresses)`. A
    signal during `prepare` cancels it. Raises: ValueError if the address is taken; what `prepare` raises.
    """
    worker = Worker(config, parts, make_front, make_member)
    with _signals(worker):
        try:
            addresses = await worker.start()
            preparing = asyncio.ensure_future(prepare(worker))
            await _first_of(preparing, worker.draining())
            if not preparing.cancelled():
                preparing.result()
                await worker.open()
                on_ready(addresses)
                await worker.run()
        finally:
            await worker.stop()


async def _first_of(*waits: Awaitable[object], timeout_s: float | None = None) -> None:
    """Wait for any of these, then cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _signals(worker: Worker) -> Iterator[None]:
    """The first SIGTERM or SIGINT drains, a second one hurries."""
    loop = asyncio.get_running_loop()
    orders = iter((worker.drain,))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: next(orders, worker.hurry)())
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _options(config: WorkerConfig) -> tuple[tuple[str, int], ...]:
    needed = 2 * MAX_BYTES_PER_TOKEN * config.model.max_model_len
    num_bytes = min(max(_MIN_MESSAGE_BYTES, needed), _MAX_MESSAGE_BYTES)
    return (
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls in silence
        ("grpc.max_receive_message_length", num_bytes),
        ("grpc.max_send_message_length", num_bytes),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_metadata_size", config.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", 2 * config.max_metadata_bytes),
        ("grpc.http2.max_ping_strikes", 0),  # a front door pings each second while it waits for a first token
    )
