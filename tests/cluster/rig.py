"""A worker over loopback in the test's own process. Owns: its start and end, and shorthand for calls and errors."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from cluster import serving_pb2 as pb
from cluster import serving_pb2_grpc
from cluster.catalogue import Catalogue
from cluster.metrics import Metrics
from cluster.seams import Alone, NoFront, Parts, WorkerConfig
from cluster.worker import Worker
from tests.fakes import ByteTokenizer, EchoEngine, PlainTemplate, model_spec, read_adapter, write_adapter


def on_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Runs an async test on a loop of its own."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


@dataclass
class Rig:
    """One running worker and a channel to it."""

    worker: Worker
    engine: EchoEngine
    calls: asyncio.Queue
    tokenizer: ByteTokenizer
    registry: CollectorRegistry
    root: Path
    channel: grpc.aio.Channel
    addresses: dict[str, str]

    def __post_init__(self):
        self.target = self.addresses["grpc"]
        self.inference = serving_pb2_grpc.InferenceStub(self.channel)
        self.adapters = serving_pb2_grpc.AdaptersStub(self.channel)
        self.cluster = serving_pb2_grpc.ClusterStub(self.channel)

    async def load(self, name: str, content: str | None = None, **options) -> pb.AdapterInfo:
        """Write an adapter below the root and load it."""
        write_adapter(self.root / name, content or f"weights of {name}")
        return await self.adapters.Load(pb.LoadAdapterRequest(name=name, path=name, **options))

    async def called(self, *call: str) -> None:
        """Wait until the engine has had this call."""
        while await self.calls.get() != call:
            pass


def parts(engine: EchoEngine, tokenizer: ByteTokenizer, registry: CollectorRegistry, read=read_adapter) -> Parts:
    return Parts(
        engine=engine,
        tokenizer=tokenizer,
        template=PlainTemplate(),
        catalogue=Catalogue(),
        metrics=Metrics(registry),
        read_adapter=read,
    )


def config(root: Path, **options) -> WorkerConfig:
    defaults = {
        "host": "h0",
        "address": "127.0.0.1:0",
        "model_name": "tiny",
        "model": model_spec(),
        "software_version": "0.0",
        "adapter_roots": (root,),
    }
    return WorkerConfig(**defaults | options)


@contextlib.asynccontextmanager
async def serving(
    root: Path,
    *,
    token=None,
    is_paced=False,
    is_open=True,
    make_front=lambda *_: NoFront(),
    make_member=lambda *_: Alone(),
    read=read_adapter,
    **options,
) -> AsyncIterator[Rig]:
    """A worker that answers until the block ends."""
    calls, loop = asyncio.Queue(), asyncio.get_running_loop()
    hear = lambda call: loop.call_soon_threadsafe(calls.put_nowait, call)
    engine = EchoEngine(**{"token": token} if token else {}, is_paced=is_paced, on_call=hear)
    tokenizer, registry = ByteTokenizer(), CollectorRegistry()
    own = parts(engine, tokenizer, registry, read)
    worker = Worker(config(root, **options), own, make_front, make_member)
    addresses = await worker.start()
    if is_open:
        await worker.open()
    try:
        async with grpc.aio.insecure_channel(addresses["grpc"]) as channel:
            yield Rig(worker, engine, calls, tokenizer, registry, root, channel, addresses)
    finally:
        await worker.stop()


def request(text: str = "hello", max_tokens: int = 4, **fields) -> pb.GenerateRequest:
    """A valid request; `fields` override."""
    prompt = {} if {"token_ids", "chat", "text"} & fields.keys() else {"text": text}
    sampling = fields.pop("sampling", {"max_tokens": max_tokens})
    adapters = [pb.AdapterUse(name=name) for name in fields.pop("adapters", ())]
    return pb.GenerateRequest(**prompt, **fields, adapters=adapters, sampling=pb.Sampling(**sampling))


async def answer(stream) -> tuple[str, list[pb.Token], pb.Final]:
    """All text, all tokens and the end of a stream."""
    replies = [reply async for reply in stream]
    tokens = [token for reply in replies for token in reply.tokens]
    assert [reply.HasField("final") for reply in replies] == [False] * (len(replies) - 1) + [True]
    return "".join(token.text for token in tokens), tokens, replies[-1].final


@dataclass
class Refusal:
    """A status with its details unpacked."""

    code: str
    message: str
    field: str
    retry_s: float | None
    pushback_ms: str | None


async def code(call) -> str:
    """How a unary call or a stream ends; what it says is not looked at."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
    return (await call.code()).name


async def refusal(call) -> Refusal:
    """The error that a unary call or a stream ends in."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        field, retry_s = "", None
        for detail in rpc_status.from_call(error).details if _is_rich(error) else ():
            bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(bad):
                field = bad.field_violations[0].field
            if detail.Unpack(retry):
                retry_s = retry.retry_delay.ToMilliseconds() / 1000
        pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        return Refusal(error.code().name, error.details(), field, retry_s, pushback)
    raise AssertionError("the call was answered")


def _is_rich(error: grpc.aio.AioRpcError) -> bool:
    return "grpc-status-details-bin" in dict(error.trailing_metadata() or ())
