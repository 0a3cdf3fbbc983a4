"""Requests for an adapter that does not come to its host keep no others waiting, whatever protocol they came by."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace

import grpc
import pytest

from cluster import serving_pb2, wire
from cluster.calls import Completion
from cluster.http_gateway import Cluster
from cluster.view import HostLoad, HostName, HostState
from lorajax.errors import UnknownAdapter
from lorajax.spec import Level
from tests.cluster.front_rig import PIRATE, SAILOR, ScriptedHost, serving
from tests.cluster.rig import on_loop

BURST = 20
"""More than the eight that a host of four sequences is sent at once."""
AT_ONCE = 2
"""Of these, for one adapter that hosts lack."""
TOLD = {"lost": "UNAVAILABLE", "full": "RESOURCE_EXHAUSTED"}
CAME, FAILED, FULL = ("pirate", "wait", 7), ("pirate", "wait", "lost"), ("pirate", "wait", "full")


async def by_grpc(rig, *adapters):
    """How a request ended: its code, and its words or the host that answered."""
    try:
        replies = [reply async for reply in rig.ask(*adapters)]
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details()
    return "OK", replies[-1].final.host


async def by_http(rig, *adapters):
    """As `by_grpc`, below the JSON."""
    ends = []

    async def write(part):
        ends.extend(["OK", part.host] if isinstance(part, Completion) else [])

    message = serving_pb2.GenerateRequest(text="hello", sampling=serving_pb2.Sampling(max_tokens=4))
    message.adapters.extend(serving_pb2.AdapterUse(name=name) for name in adapters)
    async with grpc.aio.insecure_channel(rig.addresses["a"]) as unused:
        try:
            await Cluster(rig.door, unused, lambda: True).answer(wire.call_from_proto(message), write)
        except wire.Relayed as error:
            ends = [error.code.name, str(error)]
        except UnknownAdapter as error:
            ends = ["NOT_FOUND", str(error)]
    return tuple(ends)


@contextlib.asynccontextmanager
async def bursting(ask, *hosts):
    """A front door whose hosts lack PIRATE, and a burst that waits for it."""
    num_asking = AT_ONCE * len(hosts)
    async with serving(*hosts) as rig, asyncio.timeout(30):
        rig.router.missing.add(PIRATE)
        burst = [asyncio.create_task(ask(rig, "pirate")) for _ in range(BURST)]
        while rig.door.snapshot().num_waiting < BURST - num_asking:
            await asyncio.sleep(0)
        for _ in range(num_asking):
            assert await hosts[0].reached.get() == "wait"
        yield rig, burst
        for one in burst:
            one.cancel()
        await asyncio.gather(*burst, return_exceptions=True)


@pytest.fixture(params=[by_grpc, by_http])
def ask(request):
    return request.param


@pytest.mark.parametrize("adapters", [(), ("sailor",)])
@pytest.mark.parametrize("missing", [{PIRATE}, {PIRATE, SAILOR}])
@on_loop
async def test_requests_for_others_pass_at_once(ask, adapters, missing):
    async with bursting(ask, ScriptedHost("a", *CAME)) as (rig, burst):
        rig.router.missing.update(missing)
        others = await asyncio.gather(*(ask(rig, *adapters) for _ in range(BURST)))
        assert set(others) == {("OK", "a")}
        assert not any(one.done() for one in burst)


@pytest.mark.parametrize("is_known", [False, True])
@on_loop
async def test_all_are_served_once_it_has_come(ask, is_known):
    async with bursting(ask, ScriptedHost("a", *CAME)) as (rig, burst):
        if is_known:
            rig.router.missing.clear()
        rig.hosts["a"].may_go_on.set()
        assert set(await asyncio.gather(*burst)) == {("OK", "a")}
        assert (rig.door.snapshot().num_waiting, len(rig.door.flights)) == (0, 0)


@pytest.mark.parametrize("script", [FAILED, FULL])
@on_loop
async def test_each_is_told_for_itself_where_no_host_gets_it(ask, script):
    async with bursting(ask, ScriptedHost("a", *script)) as (rig, burst):
        rig.hosts["a"].may_go_on.set()
        assert {code for code, _ in await asyncio.gather(*burst)} == {TOLD[script[-1]]}
        assert len(rig.hosts["a"].asked) == BURST


@on_loop
async def test_those_who_wait_go_to_a_host_that_got_it_while_others_still_hang(ask):
    async with bursting(ask, ScriptedHost("a", *CAME), ScriptedHost("b", 7)) as (rig, burst):
        rig.door.beat(HostName("b"), HostState.SERVING, HostLoad(), {PIRATE: Level.HOST})
        while len(done := [one for one in burst if one.done()]) < BURST - 2 * AT_ONCE:
            await asyncio.sleep(0)
        assert {one.result() for one in done} == {("OK", "b")}


@on_loop
async def test_name_that_is_gone_when_its_turn_comes_is_not_found(ask):
    async with bursting(ask, ScriptedHost("a", *CAME)) as (rig, burst):
        sailors = {"sailor": rig.table().registrations["sailor"]}
        rig.door.update(replace(rig.table(), registrations=sailors))
        rig.hosts["a"].may_go_on.set()
        assert Counter(code for code, _ in await asyncio.gather(*burst)) == {
            "OK": AT_ONCE,
            "NOT_FOUND": BURST - AT_ONCE,
        }


@on_loop
async def test_what_waits_for_it_takes_no_room_once_its_caller_has_left(ask):
    async with bursting(ask, ScriptedHost("a", *CAME)) as (rig, burst):
        for one in burst:
            one.cancel()
        await asyncio.wait_for(rig.door.flights.wait_empty(), 5)
        assert rig.door.snapshot().num_waiting == 0
        rig.hosts["a"].may_go_on.set()
        assert await ask(rig, "pirate") == ("OK", "a")
