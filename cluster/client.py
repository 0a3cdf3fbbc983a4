"""The caller's side: one channel to a host or a cluster, records in, records out, one kind of error.

Owns: deadlines, retries before the first token, the words for a call that failed. Does not: know what serves it.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster import serving_pb2, serving_pb2_grpc
from cluster.records import (
    AdapterInfo,
    HostInfo,
    Piece,
    Placement,
    Question,
    Summary,
    adapter_from_proto,
    host_from_proto,
    piece_from_proto,
    placement_from_proto,
    question_to_proto,
    summary_from_proto,
)
from lorajax.errors import LorajaxError

ADMIN_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 600.0
_RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_OPTIONS = (
    # gRPC waits as long as the server's grpc-retry-pushback-ms asks, and never repeats a call that has had an answer.
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRIES}]})),
    ("grpc.enable_retries", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 2**20),
)
_NOBODY_THERE = ("failed to connect", "errors resolving", "DNS resolution failed")
"""What gRPC's own words for an address without a server contain."""


class ClientError(LorajaxError):
    """A call failed: gRPC's code, one line for a person, and how long to wait where the server said so."""

    def __init__(self, code: grpc.StatusCode, message: str, retry_s: float | None = None) -> None:
        """Keep the code and the hint beside the message."""
        Exception.__init__(self, message)
        self.code = code
        self.retry_s = retry_s


class Client:
    """One channel to `target`; use as `async with Client("127.0.0.1:50051") as client`."""

    def __init__(self, target: str) -> None:
        """Remember the target; nothing is opened before `async with`."""
        self.target = target

    async def __aenter__(self) -> Self:
        """Open the channel; connecting happens with the first call."""
        self._channel = grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        self._inference = serving_pb2_grpc.InferenceStub(self._channel)
        self._adapters = serving_pb2_grpc.AdaptersStub(self._channel)
        self._cluster = serving_pb2_grpc.ClusterStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel; calls in flight are cancelled."""
        await self._channel.close()

    async def generate(self, question: Question, *, timeout_s: float | None = None) -> AsyncIterator[Piece | Summary]:
        """Tokens as they come, then one Summary; leaving the loop early cancels the request on the server.

        Raises: ClientError; after the first token never because of a retry.
        """
        stream = self._inference.Generate(question_to_proto(question), timeout=timeout_s)
        try:
            async for reply in stream:
                for token in reply.tokens:
                    yield piece_from_proto(token)
                if reply.HasField("final"):
                    yield summary_from_proto(reply.final)
        except grpc.aio.AioRpcError as error:
            raise self._explain(error, timeout_s) from error
        finally:
            stream.cancel()

    async def load(self, name: str, path: str, *, replace: bool = False, pin: bool = False) -> AdapterInfo:
        """Register the PEFT folder `path`, as the server sees it, under `name`."""
        request = serving_pb2.LoadAdapterRequest(name=name, path=path, replace=replace, pin=pin)
        return adapter_from_proto(await self._unary(self._adapters.Load, request, LOAD_TIMEOUT_S))

    async def unload(self, name: str, *, force: bool = False) -> int:
        """Forget `name`, with `force` also while requests use it; the number of requests that still finish on it."""
        request = serving_pb2.UnloadAdapterRequest(name=name, force=force)
        return int((await self._unary(self._adapters.Unload, request)).num_running)

    async def adapters(self) -> tuple[AdapterInfo, ...]:
        """Every registered adapter."""
        reply = await self._unary(self._adapters.List, serving_pb2.ListAdaptersRequest())
        return tuple(adapter_from_proto(info) for info in reply.adapters)

    async def pin(self, name: str, *, on: bool = True) -> AdapterInfo:
        """Keep `name` on the device, or stop doing so."""
        return adapter_from_proto(
            await self._unary(self._adapters.Pin, serving_pb2.PinAdapterRequest(name=name, pin=on))
        )

    async def status(self) -> tuple[HostInfo, ...]:
        """Every host, with its adapters, pages and requests."""
        reply = await self._unary(self._cluster.Status, serving_pb2.StatusRequest())
        return tuple(host_from_proto(host) for host in reply.hosts)

    async def drain(self, host: str = "") -> int:
        """Stop new requests on `host` (empty where there is only one); the number of requests that still finish."""
        return int((await self._unary(self._cluster.Drain, serving_pb2.DrainRequest(host=host))).num_running)

    async def placements(self) -> AsyncIterator[Placement]:
        """The placement as it is, then after each change; of a cluster only."""
        stream = self._cluster.WatchPlacement(serving_pb2.WatchPlacementRequest())
        try:
            async for reply in stream:
                yield placement_from_proto(reply)
        except grpc.aio.AioRpcError as error:
            raise self._explain(error, None) from error
        finally:
            stream.cancel()

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once the server says that it can answer; ClientError when it does not within `timeout_s`."""
        watch = health_pb2_grpc.HealthStub(self._channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=True
        )
        try:
            async for reply in watch:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            raise ClientError(grpc.StatusCode.UNAVAILABLE, f"{self.target} stopped before it was ready")
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ClientError(error.code(), f"{self.target} was not ready within {timeout_s:g} s") from error
            raise self._explain(error, timeout_s) from error
        finally:
            watch.cancel()

    async def _unary[Q, R](
        self, method: Callable[..., Awaitable[R]], request: Q, timeout_s: float = ADMIN_TIMEOUT_S
    ) -> R:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._explain(error, timeout_s) from error

    def _explain(self, error: grpc.aio.AioRpcError, timeout_s: float | None) -> ClientError:
        """The server's own words where it had any; for what gRPC itself says, what it means and what to do."""
        code, message = error.code(), error.details() or error.code().name
        pushback_ms = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        retry_s = float(pushback_ms) / 1000 if pushback_ms else None
        if code is grpc.StatusCode.UNAVAILABLE and any(sign in message for sign in _NOBODY_THERE):
            message = f"nothing answers at {self.target}; start it with `lorajax serve`, or name another --target"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and timeout_s is not None:
            message = f"{self.target} did not finish within {timeout_s:g} s; allow more time (--timeout-s)"
        return ClientError(code, message, retry_s)
