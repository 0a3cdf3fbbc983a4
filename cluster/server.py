"""A gRPC server of ours from start to end. Owns: options, health, reflection, signals, draining. Knows no service."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster import serving_pb2
from cluster.guard import Guard
from cluster.metrics import Metrics

SERVICES = tuple(service.full_name for service in serving_pb2.DESCRIPTOR.services_by_name.values())
CLOSE_S = 1.0
_MAX_MESSAGE_BYTES = 64 * 2**20
_LOG = logging.getLogger("lorajax")

OPTIONS = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls in silence
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),  # processes of a cluster ping each other every second
)


class Server:
    """One port with guarded services, health and reflection."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], metrics: Metrics) -> None:
        """Put it together; more services may be added to `grpc` before `start`. Health says not serving.

        Calls are counted in `metrics`.
        """
        self.is_serving = False
        """What health says."""
        self.grpc = grpc.aio.server(interceptors=(Guard(metrics),), options=OPTIONS)
        self.grpc.add_generic_rpc_handlers(tuple(handlers))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc)

    async def start(self, address: str) -> None:
        """Listen. Raises ValueError if the address is taken."""
        await self.set_serving(is_serving=False)
        try:
            self.grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise ValueError(f"cannot listen on {address}: in use, or not an address of this machine") from error
        await self.grpc.start()

    async def set_serving(self, is_serving: bool) -> None:
        """What health says from now on."""
        self.is_serving = is_serving
        status = health_pb2.HealthCheckResponse
        for name in ("", *SERVICES):
            await self._health.set(name, status.SERVING if is_serving else status.NOT_SERVING)

    async def stop(self) -> None:
        """Close every connection; what still runs is cut after a second."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(CLOSE_S)


async def until_told(run: Awaitable[None], drain: Callable[[], Awaitable[None]], drain_s: float) -> None:
    """Run until SIGTERM or SIGINT, then drain for at most `drain_s`; a second signal cuts that. Raises what `run` does.

    `run` goes on while it drains.
    """
    told, hurried = asyncio.Event(), asyncio.Event()
    with _signals(told, hurried):
        running = asyncio.ensure_future(run)
        try:
            await _first_of(running, told.wait())
            if running.done():
                running.result()
            draining = asyncio.ensure_future(drain())
            await _first_of(draining, hurried.wait(), timeout_s=drain_s)
            draining.cancel()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _first_of(task: "asyncio.Future[None]", wait: Awaitable[object], timeout_s: float | None = None) -> None:
    waiting = asyncio.ensure_future(wait)
    await asyncio.wait((task, waiting), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


@contextlib.contextmanager
def _signals(told: asyncio.Event, hurried: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    orders = iter((told.set,))
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, lambda: next(orders, hurried.set)())
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
