"""Channels from the front door to hosts. Owns: one per address, and how soon silence counts as loss. Knows no table."""

import asyncio
from collections.abc import Callable, Set

import grpc

from cluster import serving_pb2

_GRACE_S = 60.0
_METHOD = "/lorajax.v1.Inference/Generate"
_OPTIONS = (
    # A stopped process keeps its connections: only an unanswered ping tells.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 5000),  # a busy host answers late; one that beats no more is known sooner
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # the time that a connection may take
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.enable_retries", 0),
)

type Generate = Callable[..., grpc.aio.UnaryStreamCall]


class HostChannels:
    """Opened on first use, kept while their hosts are in the table. Owner: the event loop."""

    def __init__(self) -> None:
        """Start without any."""
        self._open: dict[str, tuple[grpc.aio.Channel, Generate]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def generate(self, address: str) -> Generate:
        """The call that streams a completion from a host; its replies are not parsed."""
        if address not in self._open:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            serialize = serving_pb2.GenerateRequest.SerializeToString
            self._open[address] = channel, channel.unary_stream(_METHOD, serialize, None)
        return self._open[address][1]

    def keep(self, addresses: Set[str]) -> None:
        """Forget the channels to every other address; what still runs over them has some time to finish."""
        for address in self._open.keys() - addresses:
            task = asyncio.create_task(self._open.pop(address)[0].close(_GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all; what still runs is cancelled."""
        await asyncio.gather(*(channel.close() for channel, _ in self._open.values()))
        for task in self._closing:
            task.cancel()
