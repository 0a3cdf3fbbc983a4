"""What happens to requests when a process of the cluster dies, stops or leaves, and how it comes back."""

import asyncio
import contextlib
import signal
import time

import grpc
import pytest

from cluster import serving_pb2 as pb
from tests.cluster.rig import on_loop, refusal
from tests.multihost.rig import HOSTS, LONG, MAX_SEQUENCES, PRELOADED, asking, until

pytestmark = pytest.mark.multihost
SEEN_S = 10.0  # seconds on an idle machine are for `python -m benchmarks faults`
_NAMES = tuple(PRELOADED)


async def home(asks, name):
    """The host that answers to an adapter's name."""
    return (await asks.ask(name)).final.host


def is_state(asks, host, *states):
    async def holds():
        return (await asks.states()).get(host) in states

    return holds


@on_loop
async def test_streams_of_a_killed_host_end_aborted_and_the_rest_is_answered(cluster, expected):
    """Twice as many streams as the hosts run at once, so that some wait at a host for their first token."""
    num_running = MAX_SEQUENCES * len(HOSTS)
    names = [_NAMES[number % len(_NAMES)] for number in range(2 * num_running)]
    async with asking(cluster) as asks:
        streams = [asks.begin(name, max_tokens=LONG) for name in names]
        for begun in asyncio.as_completed([stream.has_begun.wait() for stream in streams]):
            await begun
            if sum(stream.has_begun.is_set() for stream in streams) >= num_running:
                break
        cluster.process(HOSTS[0]).kill()
        await asyncio.gather(*(stream.task for stream in streams))
    aborted = [stream for stream in streams if stream.code == "ABORTED"]
    assert {stream.code for stream in streams} == {"OK", "ABORTED"}
    assert len(aborted) <= MAX_SEQUENCES
    assert all(stream.tokens for stream in aborted)  # those that had none yet were answered elsewhere
    for name, stream in zip(names, streams, strict=True):
        num_tokens = len(stream.tokens) if stream.code == "ABORTED" else LONG
        assert stream.tokens == expected(name, max_tokens=LONG)[:num_tokens]


@on_loop
async def test_a_killed_host_is_back_and_used(cluster):
    async with asking(cluster) as asks:
        name = _NAMES[0]
        victim = await home(asks, name)
        pid = cluster.process(victim).pid
        cluster.process(victim).kill()
        await until(is_state(asks, victim, "lost", "starting"))
        assert (await asks.ask(name)).final.host != victim
        await until(asks.is_whole)
        assert cluster.process(victim).pid != pid

        async def is_used():
            streams = await asyncio.gather(*(asks.ask(one) for one in 2 * _NAMES))
            assert {stream.code for stream in streams} == {"OK"}
            return victim in {stream.final.host for stream in streams}

        await until(is_used)


@on_loop
async def test_requests_at_a_stopped_host_are_answered_elsewhere_and_it_rejoins(cluster, expected):
    async with asking(cluster) as asks:
        name = _NAMES[1]
        victim = await home(asks, name)
        others = [one for one in _NAMES if await home(asks, one) != victim]
        process = cluster.process(victim)
        process.send_signal(signal.SIGSTOP)
        try:
            started_s = time.monotonic()
            caught = asks.begin(name)
            untouched = await asyncio.gather(*(asks.ask(one) for one in others))
            await until(is_state(asks, victim, "lost"))
            seen_s = time.monotonic() - started_s
            await caught.task
        finally:
            process.send_signal(signal.SIGCONT)
        assert {stream.code for stream in untouched} == {"OK"}
        assert (caught.code, caught.tokens) == ("OK", expected(name))
        assert caught.final.host != victim
        assert seen_s <= SEEN_S
        await until(asks.is_whole)
        assert cluster.process(victim).pid == process.pid


@on_loop
async def test_without_coordinator_requests_are_answered_and_calls_are_told_when_to_ask_again(cluster, expected):
    async with asking(cluster) as asks:
        await asks.adapters.Load(pb.LoadAdapterRequest(name="later", path="later", pin=True))
        before = await asks.registered()
        stream = asks.begin(_NAMES[0], max_tokens=LONG)
        await stream.has_begun.wait()
        names = (*_NAMES, "later")
        cluster.process("coordinator").kill()
        refused = await refusal(asks.adapters.Load(pb.LoadAdapterRequest(name="other", path="other")))
        answers = []
        while not await asks.is_whole():  # also while the coordinator is back and its hosts are not
            answers += await asyncio.gather(*(asks.ask(name) for name in names))
        assert (refused.code, refused.retry_s is not None) == ("UNAVAILABLE", True)
        assert [one.tokens for one in answers] == len(answers) // len(names) * [expected(name) for name in names]
        assert len(answers) > len(names)
        assert await asks.registered() == before
        await stream.task
        assert stream.tokens == expected(_NAMES[0], max_tokens=LONG)

        async def is_unloaded():  # hosts are back a moment before the coordinator takes calls
            with contextlib.suppress(grpc.aio.AioRpcError):
                await asks.adapters.Unload(pb.UnloadAdapterRequest(name="later", force=True))
            return "later" not in await asks.registered()

        await until(is_unloaded)


@on_loop
async def test_a_drained_host_finishes_its_streams_and_comes_back(cluster):
    async with asking(cluster) as asks:
        victim = await home(asks, _NAMES[2])
        pid = cluster.process(victim).pid
        streams = [asks.begin(_NAMES[2], max_tokens=LONG) for _ in range(MAX_SEQUENCES)]
        await asyncio.gather(*(stream.has_begun.wait() for stream in streams))
        await asks.cluster.Drain(pb.DrainRequest(host=victim))
        during = await asyncio.gather(*(asks.ask(name) for name in _NAMES))
        await asyncio.gather(*(stream.task for stream in streams))
        assert {stream.code for stream in (*streams, *during)} == {"OK"}
        assert victim in {stream.final.host for stream in streams}
        assert victim not in {stream.final.host for stream in during}

        async def is_another():
            processes = cluster.processes()
            return victim in processes and processes[victim].pid != pid

        await until(is_another)


@on_loop
async def test_a_killed_gateway_comes_back_to_its_port(cluster, expected):
    async with asking(cluster) as asks:
        cluster.process("gateway").kill()
        stream = await asks.ask(_NAMES[0], wait_for_ready=True)
        while stream.code == "UNAVAILABLE":  # it listens before it knows the table
            stream = await asks.ask(_NAMES[0], wait_for_ready=True)
    assert stream.tokens == expected(_NAMES[0])
