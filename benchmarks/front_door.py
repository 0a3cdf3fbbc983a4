"""The front door benchmark: what a gateway relays, and what it adds. Owns: its processes, the requests, the JSON.

The gateway is the one that `lorajax launch` starts, alone on its cores where the machine has others. The hosts behind
it never have to compute (idle_hosts.py). Each round asks through it and one of the hosts itself, by turns.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from benchmarks import machine, report
from benchmarks.local_cluster import write_config
from benchmarks.samples import Claim, judged
from cluster import serving_pb2
from cluster.client import Client

HOSTS, ADAPTERS = 4, 1000
PER_MESSAGE = (32, 8, 1)
"""Tokens in a message: a host puts into one what has come since the last."""
STREAMS = 32
_GOAL_TOKENS_PER_S, _GOAL_ADDED_MS = 10_000.0, 2.0
_READY_S = 30.0
_METHOD = "/lorajax.v1.Inference/Generate"
_PROMPT = tuple(range(5, 133))


def run(*, cores: Sequence[int], rounds: int, messages: int, pairs: int, out: Path) -> None:
    """Measure rounds of STREAMS streams of so many messages, and of pairs of single tokens; write `front-door.json`."""
    with tempfile.TemporaryDirectory(prefix="lorajax-front-door-") as scratch, _gateway(Path(scratch), cores) as found:
        target, host = found
        series = asyncio.run(_measured(target, host, rounds, messages, pairs))
    limits = {"goal tokens/s": [_GOAL_TOKENS_PER_S] * rounds, "goal ms": [_GOAL_ADDED_MS] * rounds}
    result = machine.facts({}) | {
        "gateway_cores": list(cores),
        "hosts": HOSTS,
        "adapters": ADAPTERS,
        "streams": STREAMS,
        "rounds": rounds,
        "claims": [row for claim in _claims() if (row := judged(claim, series | limits)) is not None],
        "series": series,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "front-door.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(report.engine_table(result), path, sep="\n\n")


def _claims() -> Iterator[Claim]:
    for per_message in PER_MESSAGE:
        case = f"relayed, {per_message} tokens a message"
        ours, goal = f"relayed {per_message}", 1.0 if per_message == max(PER_MESSAGE) else None
        yield Claim(case=f"{case}, beside the goal", unit="tok/s", ours=ours, reference="goal tokens/s", goal=goal)
        yield Claim(case=f"{case}, beside a host itself", unit="tok/s", ours=ours, reference=f"direct {per_message}")
    yield Claim(case="first token through it, or from a host itself", unit="ms", ours="door ms", reference="host ms")
    yield Claim(
        case="what it adds to the median first token, limit",
        unit="ms",
        ours="added ms",
        reference="goal ms",
        goal=1.0,
        goal_is="at most",
    )


@contextlib.contextmanager
def _gateway(folder: Path, cores: Sequence[int]) -> Iterator[tuple[str, str]]:
    """The addresses of a gateway and of one of the hosts behind it; both end with the block."""
    others = sorted(os.sched_getaffinity(0) - set(cores)) or list(cores)
    config = write_config(folder / "cluster.toml", {"model": {"path": "none"}})
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = f"127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        idle = _started(stack, others, "benchmarks.idle_hosts", str(HOSTS), str(ADAPTERS))
        assert idle.stdout is not None, "it is a pipe"
        coordinator, *hosts = json.loads(idle.stdout.readline())
        flags = ("--config", str(config), "--grpc", target, "--coordinator", coordinator)
        _started(stack, cores, "lorajax", "gateway", *flags)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, others)
        stack.callback(os.sched_setaffinity, 0, before)
        yield target, hosts[0]


def _started(stack: contextlib.ExitStack, cores: Sequence[int], module: str, *argv: str) -> subprocess.Popen[str]:
    command = ("taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", module, *argv)
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    return process


async def _measured(target: str, host: str, rounds: int, messages: int, pairs: int) -> dict[str, list[float]]:
    series: dict[str, list[float]] = defaultdict(list)
    async with Client(target) as client:
        await client.wait_ready(_READY_S)
    async with grpc.aio.insecure_channel(target) as door, grpc.aio.insecure_channel(host) as direct:
        ways = {"relayed": door, "direct": direct}
        for channel in ways.values():
            await _tokens_per_s(channel, max(PER_MESSAGE), messages)
        for number in range(rounds):
            for per_message in PER_MESSAGE:
                for name, channel in sorted(ways.items(), reverse=number % 2 == 0):
                    series[f"{name} {per_message}"].append(await _tokens_per_s(channel, per_message, messages))
            _note_first_tokens(series, *await _first_ms(door, direct, pairs))
    return series


async def _tokens_per_s(channel: grpc.aio.Channel, per_message: int, messages: int) -> float:
    began_s = time.perf_counter()
    await asyncio.gather(*(_read(channel, number, per_message, messages) for number in range(STREAMS)))
    return STREAMS * per_message * messages / (time.perf_counter() - began_s)


async def _read(channel: grpc.aio.Channel, number: int, per_message: int, messages: int) -> float:
    """Read one stream to its end; the milliseconds to its first message."""
    request = serving_pb2.GenerateRequest(
        token_ids=serving_pb2.TokenIds(ids=_PROMPT),
        adapters=[serving_pb2.AdapterUse(name=f"adapter-{number}")],
        sampling=serving_pb2.Sampling(max_tokens=per_message * messages, seed=per_message),
    )
    began_s, first_s, num_replies = time.perf_counter(), 0.0, 0
    generate = channel.unary_stream(_METHOD, serving_pb2.GenerateRequest.SerializeToString)  # replies stay bytes
    async for _ in generate(request):
        first_s = first_s or time.perf_counter()
        num_replies += 1
    assert num_replies == messages + 1, "and the final one"
    return 1e3 * (first_s - began_s)


async def _first_ms(door: grpc.aio.Channel, direct: grpc.aio.Channel, pairs: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first token through the door and from a host, in pairs of changing order."""
    took: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for way in (0, 1) if pair % 2 else (1, 0):
            took[way].append(await _read((door, direct)[way], pair, 1, 1))
    return took


def _note_first_tokens(series: dict[str, list[float]], door: list[float], direct: list[float]) -> None:
    medians = [sorted(values)[len(values) // 2] for values in (door, direct)]
    for name, value in zip(("door ms", "host ms", "added ms"), (*medians, medians[0] - medians[1]), strict=True):
        series[name].append(value)
