"""A server of ours, over gRPC. Owns: one channel, and its words for what went wrong. Does not: try anything again."""

from types import TracebackType
from typing import Self

import grpc

from benchmarks.drive.records import Call, CallFailed, Ending, Heard, Offer
from cluster import serving_pb2, serving_pb2_grpc

_ADMIN_TIMEOUT_S = 30.0
_OPTIONS = (
    ("grpc.enable_retries", 0),  # a request that fails has failed
    ("grpc.max_receive_message_length", 64 * 2**20),
)


class GrpcServer:
    """`lorajax.v1` at HOST:PORT; use as `async with GrpcServer(target) as server`."""

    def __init__(self, target: str) -> None:
        """Remember the target; nothing is opened before `async with`."""
        self.target = target

    async def __aenter__(self) -> Self:
        """Open the channel; connecting happens with the first call."""
        self.channel = grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        self._generate = serving_pb2_grpc.InferenceStub(self.channel).Generate
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        await self.channel.close()

    async def offer(self) -> Offer:
        """Its adapters; it does not tell how long its context is."""
        adapters = serving_pb2_grpc.AdaptersStub(self.channel)
        try:
            reply = await adapters.List(serving_pb2.ListAdaptersRequest(), timeout=_ADMIN_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        return Offer(name=self.target, ranks={info.name: info.rank for info in reply.adapters})

    async def generate(self, call: Call, heard: Heard) -> Ending:
        """Ask by one stream. Raises CallFailed."""
        ending: Ending | None = None
        stream = self._generate(_request(call), timeout=call.timeout_s)
        try:
            async for reply in stream:
                if reply.tokens:
                    heard(len(reply.tokens))
                if reply.HasField("final"):
                    ending = _ending(reply.final)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from error
        finally:
            stream.cancel()
        if ending is None:
            raise CallFailed("INTERNAL", "the stream ended without its last message")
        return ending


def _request(call: Call) -> serving_pb2.GenerateRequest:
    request = serving_pb2.GenerateRequest(
        adapters=[serving_pb2.AdapterUse(name=call.adapter)] if call.adapter else [],
        sampling=serving_pb2.Sampling(max_tokens=call.max_tokens, ignore_eos=True),
    )
    if isinstance(call.prompt, str):
        request.text = call.prompt
    else:
        request.token_ids.ids.extend(call.prompt)
    return request


def _ending(final: serving_pb2.Final) -> Ending:
    return Ending(
        prompt_tokens=final.usage.prompt_tokens,
        output_tokens=final.usage.completion_tokens,
        host=final.host,
        first_token_s=final.timing.first_token_s,
        adapter_wait_s=final.timing.adapter_wait_s,
    )


def _failed(error: grpc.aio.AioRpcError) -> CallFailed:
    return CallFailed(error.code().name, error.details() or "")
