"""A workload and a server that runs, to a run's record. Owns: which driver, which adapters, the facts."""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from benchmarks.drive import names, open_loop
from benchmarks.drive.open_loop import Sending, Sent
from benchmarks.drive.over_grpc import GrpcServer
from benchmarks.drive.over_http import HttpServer
from benchmarks.drive.records import CallFailed, Offer, Server
from benchmarks.drive.watch import Watch, watching
from benchmarks.outcomes.records import Run
from benchmarks.workloads.records import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """What is driven, and how."""

    address: str
    """HOST:PORT of a server of ours, or http(s)://… of an OpenAI-compatible one."""
    sending: Sending
    system: str = ""
    """What the report calls the server; empty: its address."""
    from_server: bool = False
    """Whether the server's own adapters stand for those of the workload, by rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """A run, and what a person should hear besides."""

    run: Run
    sent: Sent


async def drive(workload: Workload, given: Drive) -> Driven:
    """Send the workload and tell what became of it. Cancelled: what there is until then, with `is_whole` false.

    Raises: ValueError where the server is not there, or its adapters are not those that are wanted.
    """
    async with _server(given.address) as (server, watch):
        offer = await _offer(server, given.address)
        choose = names.by_rank if given.from_server else names.by_name
        sending = given.sending
        if sending.max_model_len is None:
            sending = replace(sending, max_model_len=offer.max_model_len)
        sent = await open_loop.send(workload, choose(workload, offer), server, sending)
    run = Run(
        system=given.system or given.address,
        workload=workload.name,
        facts=_facts(workload, given, sending, sent),
        outcomes=sent.outcomes,
        span_s=sent.span_s,
        hosts=watch.hosts(sent.outcomes, sent.endings),
        moved_bytes=sum(watch.appeared),
        num_moves=len(watch.appeared),
        placements=tuple(watch.placements),
    )
    return Driven(run=run, sent=sent)


@contextlib.asynccontextmanager
async def _server(address: str) -> AsyncIterator[tuple[Server, Watch]]:
    """The server, and a look at what its hosts hold, which only ours tells."""
    if "://" in address:
        async with HttpServer(address, os.environ.get("OPENAI_API_KEY", "")) as over_http:
            yield over_http, Watch()
    else:
        async with GrpcServer(address) as over_grpc, watching(over_grpc.channel) as watch:
            yield over_grpc, watch


async def _offer(server: Server, address: str) -> Offer:
    try:
        return await server.offer()
    except CallFailed as error:
        flag = "--url" if "://" in address else "--target"
        raise ValueError(
            f"{address} does not say what it serves ({error}); start it, or name another {flag}"
        ) from error


def _facts(workload: Workload, given: Drive, sending: Sending, sent: Sent) -> dict[str, object]:
    """What makes two runs comparable; who runs a command adds where and with what."""
    return {
        "driver": "http" if "://" in given.address else "grpc",
        "workload": dict(workload.facts),
        "prompts": "text" if sending.is_text else "token ids",
        "timeout_s": sending.timeout_s,
        "max_concurrency": sending.max_concurrency,
        # A limit that cut nothing makes no difference between servers.
        "max_model_len": sending.max_model_len if sent.num_clipped else None,
        "adapters_from_server": given.from_server,
        "num_clipped": sent.num_clipped,
        "num_short": sent.num_short,
        "is_whole": sent.is_whole,
    }
