"""What running streams notice of a transfer, on a real cluster of two hosts. Owns: the cluster, the streams, the gaps.

Every adapter has a copy on both hosts, so one that is loaded on one of them is moved to the other at once. That it came
the way it should is read in the hosts' logs. Does not: judge (transfer.py does).
"""

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np

from benchmarks.local_cluster import Tables, launched, write_config
from benchmarks.peers import fixtures
from checkpoints import base, names
from cluster import serving_pb2 as pb
from cluster import serving_pb2_grpc
from lorajax.bundled import example_adapters

RANK = 64
"""Of the adapters that are moved."""
_STREAMS = 4
"""Two on each host, mostly: the router spreads them."""
_TOKENS = 6000
_WARM_S, _QUIET_S, _LOOK_S, _TIMEOUT_S = 3.0, 2.0, 0.02, 60.0
_PROMPT = tuple(range(5, 21))
_CAME = re.compile(r"adapter (\w+) came by (\w+) in")


@dataclass(slots=True)
class _Stream:
    """When each message of a running stream came, on the clock of `time.perf_counter`."""

    times_s: list[float] = field(default_factory=list)

    def gaps_ms(self, since_s: float, until_s: float) -> list[float]:
        """Gaps that lie, or end, or begin between two moments."""
        return [1e3 * (b - a) for a, b in pairwise(self.times_s) if b > since_s and a < until_s]


def measured(folder: Path, model: Path, transfer: str, moves: int) -> dict[str, list[float]]:
    """The worst and the median gap of the stream that noticed most, for each move and each quiet while before it.

    Raises: RuntimeError where an adapter did not come the way it should.
    """
    roots = [_write_adapter(folder / f"moved-{number}", model, number) for number in range(moves)]
    examples = example_adapters()
    tables: Tables = {
        "model": {"path": str(model)},
        "cluster": {"replicas": 2, "transfer": transfer, "coordinator": "127.0.0.1:0", "state_dir": "state"},
        "adapters": {"roots": [*map(str, roots)], "min_copies": 2},
        "adapters.preload": {one.name: one.folder for one in examples},
        "engine": {"kv_bytes": "512MiB", "adapter_bytes": "128MiB", "max_batch_tokens": 64},
    }
    with launched(write_config(folder / "cluster.toml", tables), folder / "said") as cluster:
        versions, series = asyncio.run(_moved(cluster.target, [one.name for one in examples], roots))
        logs = (file.read_text() for file in (folder / "state" / "logs").glob("host-*.log"))
        ways = {version: way for log in logs for version, way in _CAME.findall(log)}
    wrong = {version: ways.get(version[:12], "nothing") for version in versions if ways.get(version[:12]) != transfer}
    if wrong:
        raise RuntimeError(f"{len(wrong)} adapters did not come by {transfer}: {wrong}")
    return {f"{transfer} {name}": values for name, values in series.items()}


def _write_adapter(folder: Path, model: Path, seed: int) -> Path:
    parts = [part for weight in names.weights(base.read_spec(model)) for part in weight.parts if part.is_transposed]
    shapes = {part.hf.removesuffix(".weight"): part.shape for part in parts}
    linear = {name: (shape[0], shape[1]) for name, shape in shapes.items() if name.endswith(fixtures.TARGETS)}
    fixtures.write_adapter(folder, linear, RANK, seed)
    return folder


async def _moved(target: str, adapters: list[str], folders: list[Path]) -> tuple[list[str], dict[str, list[float]]]:
    """The versions that were moved, and the series."""
    series: dict[str, list[float]] = defaultdict(list)
    versions: list[str] = []
    async with grpc.aio.insecure_channel(target) as channel, _running(channel, adapters) as streams:
        service = serving_pb2_grpc.AdaptersStub(channel)
        await asyncio.sleep(_WARM_S)
        for number, folder in enumerate(folders):
            await asyncio.sleep(_QUIET_S)  # what reading a folder does to a host is over
            quiet_s = time.perf_counter()
            await asyncio.sleep(_QUIET_S)
            _note(series, "quiet ", streams, quiet_s, time.perf_counter())
            info = await service.Load(pb.LoadAdapterRequest(name=f"moved-{number}", path=str(folder)))
            loaded_s = time.perf_counter()
            async with asyncio.timeout(_TIMEOUT_S):
                await _until_on_both(service, info.name)
            series["seconds to both hosts"].append(time.perf_counter() - loaded_s)
            _note(series, "", streams, loaded_s, time.perf_counter())
            versions.append(info.version)
    return versions, series


async def _until_on_both(service: serving_pb2_grpc.AdaptersStub, name: str) -> None:
    """Hosts tell of their copies twice a second: what is taken for the transfer lasts that much longer."""
    while True:
        reply = await service.List(pb.ListAdaptersRequest())
        if any(info.name == name and len(info.residency) == 2 for info in reply.adapters):
            return
        await asyncio.sleep(_LOOK_S)


def _note(series: dict[str, list[float]], when: str, streams: list[_Stream], since_s: float, until_s: float) -> None:
    """The gaps of the stream that noticed most."""
    found = []
    for stream in streams:
        median = float(np.median(stream.gaps_ms(0.0, until_s)))
        found.append((max(stream.gaps_ms(since_s, until_s), default=1e3 * (until_s - since_s)), median))
    worst, median = max(found, key=lambda pair: pair[0] / pair[1])
    series[f"{when}worst ms"].append(worst)
    series[f"{when}median ms"].append(median)


@contextlib.asynccontextmanager
async def _running(channel: grpc.aio.Channel, adapters: list[str]) -> AsyncIterator[list[_Stream]]:
    """Streams that have begun and outlast the block. Raises: RuntimeError where one ends before."""
    streams = [_Stream() for _ in range(_STREAMS)]
    stub = serving_pb2_grpc.InferenceStub(channel)
    tasks = [
        asyncio.create_task(_read(stream, stub, adapters[number % len(adapters)]))
        for number, stream in enumerate(streams)
    ]
    try:
        yield streams
        for task in tasks:
            if task.done():
                task.result()  # raises what ended it
                raise RuntimeError("a stream ended before the last transfer; make fewer moves")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(stream: _Stream, stub: serving_pb2_grpc.InferenceStub, adapter: str) -> None:
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=_PROMPT),
        adapters=[pb.AdapterUse(name=adapter)],
        sampling=pb.Sampling(max_tokens=_TOKENS, ignore_eos=True),
    )
    async for _ in stub.Generate(request):
        stream.times_s.append(time.perf_counter())
