"""A tiny cluster of real processes. Owns: its files, and how tests ask it. Does not: start it (local_cluster.py does).

The model's context is long, so that a stream lasts while something is done to the processes.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks import local_cluster
from benchmarks.local_cluster import LocalCluster
from checkpoints import tokenizer
from cluster import serving_pb2 as pb
from cluster import serving_pb2_grpc
from lorajax.chat import NoChatTemplate
from lorajax.text import Tokenizer
from tests import tiny, tiny_text

NUM_HOSTS = 3
MAX_SEQUENCES = 4
HOSTS = tuple(f"host-{number}" for number in range(NUM_HOSTS))
ENGINE = {
    "kv_bytes": 16 << 20,
    "adapter_bytes": 4 << 20,
    "max_sequences": MAX_SEQUENCES,
    "max_batch_tokens": 32,
    "interleaved_tokens": 28,
}
PRELOADED = {"rank4": 4, "rank8": 8, "rank16": 16, "rank48": 48, "rank64": 64}
LATER = {"later": 32, "other": 12}
"""What is not loaded at the start."""
PROMPT = (5, 9, 17, 33)
LONG = 400
"""Tokens of an answer that takes seconds."""
TIMEOUT_S = 60.0
_LOOK_S = 0.05
_CONTEXT = 8192
_request_ids = (f"request-{number}" for number in itertools.count())


def write_model(folder: Path) -> Path:
    """The base model."""
    tiny.write_model(folder, "llama", seed=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": _CONTEXT}))
    tokenizer.save(folder, Tokenizer(tiny_text.byte_level()), NoChatTemplate())
    return folder


def write_adapters(folder: Path) -> dict[str, Path]:
    """An adapter of each rank, by name."""
    for seed, (name, rank) in enumerate((PRELOADED | LATER).items()):
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        tiny.write_adapter(folder / name, "llama", seed, {"r": rank, "lora_alpha": 2 * rank, "target_modules": targets})
    return {name: folder / name for name in PRELOADED | LATER}


def write_config(folder: Path, **cluster: object) -> Path:
    """A configuration beside the model and the adapters; `cluster` overrides its table of that name."""
    defaults = {
        "replicas": NUM_HOSTS,
        "transfer": "stream",
        "coordinator": "127.0.0.1:0",
        "state_dir": "state",
        "drain_s": 20,
    }
    return local_cluster.write_config(
        folder / "cluster.toml",
        {
            "model": {"path": "model", "dtype": "float32"},
            "cluster": defaults | cluster,
            "adapters": {"roots": ["adapters"]},
            "adapters.preload": {name: f"adapters/{name}" for name in PRELOADED},
            "engine": {"kernels": "xla", **ENGINE},
            "placement": {"interval_s": 2},
        },
    )


@dataclass(slots=True)
class Stream:
    """One request and all that it got."""

    tokens: list[int] = field(default_factory=list)
    final: pb.Final | None = None
    error: grpc.aio.AioRpcError | None = None
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first token, or the end."""
    task: asyncio.Task | None = None

    @property
    def code(self) -> str:
        """How it ended, by gRPC's name."""
        return "OK" if self.error is None else self.error.code().name


class Asking:
    """What tests ask of a gateway; nothing is tried again by this side."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._inference = serving_pb2_grpc.InferenceStub(channel)
        self.adapters = serving_pb2_grpc.AdaptersStub(channel)
        self.cluster = serving_pb2_grpc.ClusterStub(channel)

    def begin(self, *adapters: str, max_tokens: int = 24, prompt: tuple[int, ...] = PROMPT, **options) -> Stream:
        """A greedy request on its way."""
        stream = Stream()
        request = pb.GenerateRequest(
            request_id=next(_request_ids),
            token_ids=pb.TokenIds(ids=prompt),
            adapters=[pb.AdapterUse(name=name) for name in adapters],
            sampling=pb.Sampling(max_tokens=max_tokens, ignore_eos=True),
        )
        call = self._inference.Generate(request, **{"timeout": TIMEOUT_S} | options)
        stream.task = asyncio.create_task(_read(stream, call))
        return stream

    async def ask(self, *adapters: str, **options) -> Stream:
        """A request and its end."""
        stream = self.begin(*adapters, **options)
        await stream.task
        return stream

    async def states(self) -> dict[str, str]:
        """What each host is said to be."""
        reply = await self.cluster.Status(pb.StatusRequest())
        return {host.name: host.state for host in reply.hosts}

    async def registered(self) -> dict[str, tuple[str, int, bool]]:
        """(version, rank, pinned) of every name."""
        reply = await self.adapters.List(pb.ListAdaptersRequest())
        return {info.name: (info.version, info.rank, info.pinned) for info in reply.adapters}

    async def is_whole(self) -> bool:
        """Whether every host serves."""
        try:
            return await self.states() == dict.fromkeys(HOSTS, "serving")
        except grpc.aio.AioRpcError:
            return False


async def _read(stream: Stream, call: grpc.aio.UnaryStreamCall) -> None:
    try:
        async for reply in call:
            stream.tokens += [token.id for token in reply.tokens]
            stream.has_begun.set()
            if reply.HasField("final"):
                stream.final = reply.final
    except grpc.aio.AioRpcError as error:
        stream.error = error
    finally:
        stream.has_begun.set()
        call.cancel()


@contextlib.asynccontextmanager
async def asking(cluster: LocalCluster, *, is_whole: bool = True) -> AsyncIterator[Asking]:
    """A channel to the gateway of a cluster whose hosts all serve, as they do again afterwards."""
    async with grpc.aio.insecure_channel(cluster.target) as channel:
        asks = Asking(channel)
        if is_whole:
            await until(asks.is_whole)
        yield asks
        if is_whole:
            await until(asks.is_whole)


async def until(holds: Callable[[], Awaitable[bool]], timeout_s: float = TIMEOUT_S) -> float:
    """Look again and again until it holds; returns after how many seconds. Nothing tells us of another process."""
    started_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not await holds():
            await asyncio.sleep(_LOOK_S)
    return time.monotonic() - started_s
