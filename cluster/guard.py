"""What stands round every call. Owns: turning any error into one status, and counting it. Does not: know the calls."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

import grpc
from google.protobuf.message import DecodeError, Message

from cluster import wire
from cluster.metrics import Metrics
from lorajax.errors import BadRequest

_LOG = logging.getLogger(__name__)
_OURS = "/lorajax.v1."

type _Handler = Callable[[Message | bytes, grpc.aio.ServicerContext], Awaitable[Message | bytes | None]]


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Wraps our own services; health and reflection answer for themselves."""

    def __init__(self, metrics: Metrics) -> None:
        """Counts go to `metrics`."""
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The handler of a call, guarded."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        method = details.method.removeprefix(_OURS)

        async def guarded(
            request: Message | bytes | DecodeError, context: grpc.aio.ServicerContext
        ) -> Message | bytes | None:
            return await self._answer(method, inner, request, context)

        return make(
            guarded,
            request_deserializer=lambda data: _parsed(handler.request_deserializer, data),
            response_serializer=handler.response_serializer,
        )

    async def _answer(
        self, method: str, inner: _Handler, request: Message | bytes | DecodeError, context: grpc.aio.ServicerContext
    ) -> Message | bytes | None:
        code = grpc.StatusCode.OK
        try:
            if isinstance(request, DecodeError):
                raise BadRequest("the message cannot be parsed: invalid UTF-8, nested too deeply, or another type")
            return await inner(request, context)
        except (asyncio.CancelledError, grpc.aio.BaseError) as error:
            # The second is a write that was under way when the caller left: nobody is there for a status.
            remaining_s = context.time_remaining()
            is_late = remaining_s is not None and remaining_s <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
            raise asyncio.CancelledError from error
        except wire.Relayed as error:
            code = error.code
            await context.abort(code, str(error), error.trailing)  # raises
            return None
        except Exception as error:  # noqa: BLE001  # the process border: it ends this request
            verdict = judged(error, method)
            code, status = verdict.code, wire.status_of(verdict)
            await context.abort(status.code, status.details, status.trailing_metadata)  # raises
            return None
        finally:
            self._metrics.answered(method, code.name)


def judged(error: Exception, method: str) -> wire.Verdict:
    """What the caller is told of an error; a bug goes to the log in full, under the id that the caller sees."""
    if isinstance(error, wire.Relayed):
        return error.verdict
    incident_id = uuid.uuid4().hex[:12]
    verdict = wire.verdict_of(error, incident_id)
    if verdict.code is grpc.StatusCode.INTERNAL:
        _LOG.error("incident %s in %s", incident_id, method, exc_info=error)
    return verdict


def _parsed(parse: Callable[[bytes], Message] | None, data: bytes) -> Message | bytes | DecodeError:
    """The message, bytes where it is only passed on, or why there is none: grpc itself would answer INTERNAL."""
    try:
        return parse(data) if parse else data
    except DecodeError as error:
        return error
