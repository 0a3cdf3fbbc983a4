"""Calls of whole services passed on to another process. Owns: how, message by message. Reads none of them."""

from collections.abc import Awaitable, Callable, Sequence

import grpc

from cluster import serving_pb2, wire
from cluster.control_wire import TABLE_KEY
from lorajax.errors import Unavailable

type Follow = Callable[[int], Awaitable[None]]
"""Returns once the caller's next request is routed by the table of this number."""

_NOBODY = "the coordinator does not answer; what runs goes on, try again"


def handlers(services: Sequence[str], channel: grpc.aio.Channel, follow: Follow) -> list[grpc.GenericRpcHandler]:
    """Handlers that pass every call of these services of `serving.proto` on over a channel, as it came."""
    return [
        grpc.method_handlers_generic_handler(
            f"lorajax.v1.{service}",
            {
                method.name: _streaming(channel, path) if method.server_streaming else _unary(channel, path, follow)
                for method in serving_pb2.DESCRIPTOR.services_by_name[service].methods
                for path in [f"/lorajax.v1.{service}/{method.name}"]
            },
        )
        for service in services
    ]


async def answered[T](call: grpc.aio.UnaryUnaryCall, follow: Follow) -> T:
    """The answer to a call that was passed on, once it also holds here. Raises what the caller is to be told."""
    try:
        reply: T = await call
        number = dict(await call.trailing_metadata() or ()).get(TABLE_KEY, "0")
    except grpc.aio.AioRpcError as error:
        raise _judged(error) from None
    await follow(int(number))
    return reply


def _unary(channel: grpc.aio.Channel, path: str, follow: Follow) -> grpc.RpcMethodHandler:
    ask = channel.unary_unary(path)

    async def answer(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return await answered(ask(message, timeout=context.time_remaining()), follow)

    return grpc.unary_unary_rpc_method_handler(answer)


def _streaming(channel: grpc.aio.Channel, path: str) -> grpc.RpcMethodHandler:
    ask = channel.unary_stream(path)

    async def answer(message: bytes, context: grpc.aio.ServicerContext) -> None:
        call = ask(message, timeout=context.time_remaining())
        try:
            async for reply in call:
                await context.write(reply)
        except grpc.aio.AioRpcError as error:
            raise _judged(error) from None
        finally:
            call.cancel()

    return grpc.unary_stream_rpc_method_handler(answer)


def _judged(error: grpc.aio.AioRpcError) -> Exception:
    relayed = wire.Relayed.of(error, {})
    if error.code() is grpc.StatusCode.UNAVAILABLE and not relayed.trailing:
        return Unavailable(_NOBODY)
    return relayed
