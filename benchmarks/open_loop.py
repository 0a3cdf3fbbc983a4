"""Requests at a rate that does not wait for answers. Owns: the trace, and how soon each answer began. Judges nothing.

Popularity is skewed and shifts: adapters are drawn by Zipf's law, and who is first changes again and again.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import grpc

from cluster import serving_pb2

ZIPF = 1.11
"""Of the LoRA requests of Alibaba's GenTD26 trace."""
SHIFT_S = 6.0
"""How long an adapter stays the most popular one."""
PROMPT_TOKENS, NEW_TOKENS = (64, 384), (4, 16)
"""From and to."""
_VOCABULARY = (5, 120)
_SHIFT = 7
"""How far popularity moves along the adapters: their ranks take turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request to come."""

    at_s: float
    adapter: str
    prompt: tuple[int, ...]
    max_tokens: int


def trace(adapters: Sequence[str], rate: float, seconds: float, began_s: float, seed: int) -> Iterator[Arrival]:
    """Poisson arrivals over so many seconds, the first of them `began_s` after the first of all traces."""
    random = Random(f"{seed} {rate}")
    weights = [(1 + place) ** -ZIPF for place in range(len(adapters))]
    at_s = random.expovariate(rate)
    while at_s < seconds:
        place = random.choices(range(len(adapters)), weights)[0]
        shift = _SHIFT * int((began_s + at_s) / SHIFT_S)
        yield Arrival(
            at_s=at_s,
            adapter=adapters[(place + shift) % len(adapters)],
            prompt=tuple(random.choices(range(*_VOCABULARY), k=random.randint(*PROMPT_TOKENS))),
            max_tokens=random.randint(*NEW_TOKENS),
        )
        at_s += random.expovariate(rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one request went."""

    first_s: float = math.inf
    """From the moment that it was to come to its first token: a client that is late is no excuse."""
    code: str = "OK"
    """gRPC's name of how it ended; where not OK, `first_s` is infinite."""


async def answers(channel: grpc.aio.Channel, arrivals: Sequence[Arrival], timeout_s: float) -> list[Answer]:
    """Ask for each arrival at its time; returns once all have ended."""
    generate = channel.unary_stream(
        "/lorajax.v1.Inference/Generate", serving_pb2.GenerateRequest.SerializeToString
    )  # replies stay bytes
    began_s = time.perf_counter()

    async def ask(arrival: Arrival) -> Answer:
        await asyncio.sleep(began_s + arrival.at_s - time.perf_counter())
        first_s = math.inf
        request = serving_pb2.GenerateRequest(
            token_ids=serving_pb2.TokenIds(ids=arrival.prompt),
            adapters=[serving_pb2.AdapterUse(name=arrival.adapter)],
            sampling=serving_pb2.Sampling(max_tokens=arrival.max_tokens, ignore_eos=True),
        )
        try:
            async for _ in generate(request, timeout=timeout_s):
                first_s = min(first_s, time.perf_counter() - began_s - arrival.at_s)
        except grpc.aio.AioRpcError as error:
            return Answer(code=error.code().name)
        return Answer(first_s=first_s)

    return await asyncio.gather(*map(ask, arrivals))
