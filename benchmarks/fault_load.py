"""Steady requests to a cluster, and how each ended. Owns: their pace and their outcomes. Judges none of them."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from cluster import serving_pb2, serving_pb2_grpc

_WORKERS = 6
_PAUSE_S = 0.05
"""Between two requests of a worker: the processes of the cluster have this machine to themselves, nearly."""
_NEW_TOKENS = 48
_TIMEOUT_S = 60.0
_PROMPT = tuple(range(5, 21))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one request ended."""

    adapter: str
    started_s: float
    ended_s: float
    code: str
    words: str = ""
    host: str = ""
    """Who answered; empty where nobody did in full."""


class Load:
    """Workers that ask by one adapter after the other."""

    def __init__(self, channel: grpc.aio.Channel, adapters: list[str]) -> None:
        """Ask nothing before `running`."""
        self._stub = serving_pb2_grpc.InferenceStub(channel)
        self._adapters = itertools.cycle(adapters)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[list[Outcome]]:
        """Requests while the block runs; the list grows, and is complete afterwards."""
        outcomes: list[Outcome] = []
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_WORKERS):
                tasks.create_task(self._work(outcomes, stopping))
            try:
                yield outcomes
            finally:
                stopping.set()

    async def _work(self, outcomes: list[Outcome], stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            outcomes.append(await self._ask(next(self._adapters)))
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, adapter: str) -> Outcome:
        started_s = time.monotonic()
        request = serving_pb2.GenerateRequest(
            token_ids=serving_pb2.TokenIds(ids=_PROMPT),
            adapters=[serving_pb2.AdapterUse(name=adapter)],
            sampling=serving_pb2.Sampling(max_tokens=_NEW_TOKENS, ignore_eos=True),
        )
        code, words, host = "OK", "", ""
        try:
            async for reply in self._stub.Generate(request, timeout=_TIMEOUT_S):
                host = reply.final.host
        except grpc.aio.AioRpcError as error:
            code, words, host = error.code().name, error.details() or "", ""
        return Outcome(
            adapter=adapter, started_s=started_s, ended_s=time.monotonic(), code=code, words=words, host=host
        )
