"""One request on its way through the front door. Owns: its record, and what a host's refusal means for it.

Does not: send it (front_door.py does) or choose hosts (routing.py does).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from cluster import serving_pb2
from cluster.calls import Call, Chat
from cluster.routing import Ask
from cluster.view import Registration

_BYTES_PER_TOKEN = 4
_FILLING_TOKENS = 512
"""What an answer that may fill the context is taken for."""


class Caller(Protocol):
    """Who asked, whatever the protocol; a `grpc.aio.ServicerContext` is one."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What came with the request."""

    def time_remaining(self) -> float | None:
        """Seconds to its deadline, where it has one."""

    async def write(self, reply: bytes) -> None:
        """Send a serialized GenerateReply on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What a host is sent, whichever it is."""

    request_id: str
    message: serving_pb2.GenerateRequest
    ask: Ask
    adapters: tuple[Registration, ...]
    arrived_s: float
    caller: Caller = field(repr=False)


def prompt_tokens(call: Call) -> int:
    """About as many as the prompt has: only its host knows."""
    match call.prompt:
        case tuple(ids):
            return len(ids)
        case str(text):
            return 1 + len(text) // _BYTES_PER_TOKEN
        case Chat(messages=messages):
            return 1 + sum(len(part) for message in messages for part in message) // _BYTES_PER_TOKEN


def max_tokens(call: Call) -> int:
    """As many as the answer may have, as far as that is known here."""
    return _FILLING_TOKENS if call.fills_context else call.sampling.max_tokens


def is_gone(error: grpc.aio.AioRpcError) -> bool:
    """Whether nobody answered: what a host itself says of being unavailable comes with a time to wait.

    A request that meets a host in the very moment of its end is cancelled.
    """
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return "grpc-retry-pushback-ms" not in dict(error.trailing_metadata() or ())
    return error.code() is grpc.StatusCode.CANCELLED


def is_elsewhere(error: grpc.aio.AioRpcError) -> bool:
    """Whether another host may have room: gRPC itself refuses too large a message without a time to wait."""
    is_busy = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    return is_busy and "grpc-retry-pushback-ms" in dict(error.trailing_metadata() or ())
