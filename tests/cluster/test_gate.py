"""The gate lets requests in one by one, and the tenants that wait take turns."""

import asyncio

import pytest

from cluster.gate import Gate, Gates
from lorajax.errors import Overloaded
from lorajax.spec import Version
from tests.cluster.rig import on_loop


async def _pass(gate: Gate, log: list[str], key: str, tenant: str, leave: asyncio.Event) -> None:
    async with gate.entered(tenant, key, 2000):
        log.append(key)
        await leave.wait()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@on_loop
async def test_no_more_than_the_limit_are_inside():
    gate, log, leave = Gate(lambda: 2, 10), [], asyncio.Event()
    tasks = [asyncio.create_task(_pass(gate, log, str(i), "t", leave)) for i in range(4)]
    await _settle()
    assert (log, gate.num_waiting) == (["0", "1"], 2)
    leave.set()
    await asyncio.gather(*tasks)
    assert (log, gate.num_waiting) == (["0", "1", "2", "3"], 0)


@on_loop
async def test_a_tenant_that_floods_lets_another_in_after_its_next():
    gate, log, leave = Gate(lambda: 1, 10), [], asyncio.Event()
    flood = [asyncio.create_task(_pass(gate, log, f"flood{i}", "flood", leave)) for i in range(5)]
    await _settle()
    other = asyncio.create_task(_pass(gate, log, "other", "other", leave))
    await _settle()
    leave.set()
    await asyncio.gather(*flood, other)
    assert log.index("other") <= 2


@on_loop
async def test_one_that_leaves_while_it_waits_takes_no_room():
    gate, log, leave = Gate(lambda: 1, 10), [], asyncio.Event()
    inside = asyncio.create_task(_pass(gate, log, "a", "t", leave))
    await _settle()
    gone = asyncio.create_task(_pass(gate, log, "b", "t", leave))
    last = asyncio.create_task(_pass(gate, log, "c", "t", leave))
    await _settle()
    gone.cancel()
    await _settle()
    leave.set()
    await asyncio.gather(inside, last)
    assert (log, gate.num_waiting) == (["a", "c"], 0)


@on_loop
async def test_one_cancelled_at_the_moment_it_is_let_in_gives_its_room_back():
    gate, log, leave = Gate(lambda: 1, 10), [], asyncio.Event()
    async with gate.entered("t", "a", 2000):
        second = asyncio.create_task(_pass(gate, log, "b", "t", leave))
        await _settle()
    second.cancel()  # let in, but it has not run since
    await _settle()
    third = asyncio.create_task(_pass(gate, log, "c", "t", leave))
    leave.set()
    await third
    assert log == ["c"]


@on_loop
async def test_a_full_waiting_room_refuses():
    gate, log, leave = Gate(lambda: 1, 1), [], asyncio.Event()
    tasks = [asyncio.create_task(_pass(gate, log, str(i), "t", leave)) for i in range(2)]
    await _settle()
    with pytest.raises(Overloaded, match="1 requests are waiting"):
        async with gate.entered("t", "x", 1):
            pass
    leave.set()
    await asyncio.gather(*tasks)


@on_loop
async def test_more_are_let_in_when_the_limit_grows():
    limit, log, leave = [1], [], asyncio.Event()
    gate = Gate(lambda: limit[0], 10)
    tasks = [asyncio.create_task(_pass(gate, log, str(i), "t", leave)) for i in range(3)]
    await _settle()
    limit[0] = 3
    gate.admit()
    await _settle()
    assert log == ["0", "1", "2"]
    leave.set()
    await asyncio.gather(*tasks)


@on_loop
async def test_one_that_leaves_at_the_moment_it_would_be_let_in_harms_nobody():
    gate, log, leave = Gate(lambda: 1, 10), [], asyncio.Event()
    async with gate.entered("t", "a", 2000):
        second = asyncio.create_task(_pass(gate, log, "b", "t", leave))
        third = asyncio.create_task(_pass(gate, log, "c", "t", leave))
        await _settle()
        second.cancel()  # and has not heard of it when the first goes
    leave.set()
    await third
    assert (log, gate.num_waiting) == (["c"], 0)


async def _fetch(gates: Gates, log: list[str], key: str, version: str, came: asyncio.Event) -> None:
    """Wait inside for an adapter to come."""
    async with gates.hosts.entered("t", key, 2000) as place:
        await place.enter(gates.of(Version(version)))
        log.append(key)
        await came.wait()
        place.enter_now(gates.hosts)


@on_loop
async def test_who_waits_for_an_adapter_leaves_the_room_to_others():
    gates, log, came = Gates(lambda: 4, 10), [], asyncio.Event()
    tasks = [asyncio.create_task(_fetch(gates, log, f"a{i}", "a", came)) for i in range(6)]
    await _settle()
    tasks += [asyncio.create_task(_pass(gates.hosts, log, f"b{i}", "t", came)) for i in range(5)]
    await _settle()
    assert (log, gates.num_waiting) == (["a0", "b0", "b1", "b2", "b3"], 5 + 1)
    came.set()
    await asyncio.gather(*tasks)
    assert (len(log), gates.num_waiting) == (11, 0)


@on_loop
async def test_all_adapters_together_are_waited_for_by_as_many_as_hosts_are_sent():
    gates, log, came = Gates(lambda: 8, 100), [], asyncio.Event()
    tasks = [asyncio.create_task(_fetch(gates, log, f"{v}{i}", v, came)) for i in range(3) for v in "abcdefgh"]
    await _settle()
    assert sorted(log) == [f"{v}0" for v in "abcdefgh"]
    came.set()
    await asyncio.gather(*tasks)
    assert (len(log), gates.num_waiting) == (24, 0)


@on_loop
async def test_who_has_come_in_despite_the_limit_counts():
    gates, log, came = Gates(lambda: 1, 10), [], asyncio.Event()
    inside = asyncio.create_task(_pass(gates.hosts, log, "in", "t", leave := asyncio.Event()))
    await _settle()
    async with gates.of(Version("a")).entered("t", "a", 2000) as place:
        place.enter_now(gates.hosts)
        leave.set()
        await inside
        waiting = asyncio.create_task(_pass(gates.hosts, log, "next", "t", came))
        await _settle()
        assert (log, gates.num_waiting) == (["in"], 1)
    came.set()
    await waiting
    assert log == ["in", "next"]


@on_loop
async def test_all_who_wait_for_an_adapter_go_on_once_a_host_has_it():
    gates, held, log, came = Gates(lambda: 4, 10), set(), [], asyncio.Event()
    tasks = [asyncio.create_task(_fetch(gates, log, f"{v}{i}", v, came)) for v in "ab" for i in range(3)]
    await _settle()
    assert sorted(log) == ["a0", "b0"]
    for learnt in ("b", "b", "a"):
        with gates.noticing(lambda host, version: (host, version) in held, ("h",)):
            held.add(("h", Version("b")) if learnt == "b" else ("other", Version("a")))
        await _settle()
    assert sorted(log) == ["a0", "b0", "b1", "b2"]
    came.set()
    await asyncio.gather(*tasks)
    assert (len(log), gates.num_waiting) == (6, 0)


@on_loop
async def test_one_cancelled_at_the_moment_the_gate_opens_gives_its_room_back():
    gate, log, leave = Gate(lambda: 1, 10), [], asyncio.Event()
    async with gate.entered("t", "a", 2000):
        second = asyncio.create_task(_pass(gate, log, "b", "t", leave))
        await _settle()
        gate.open()
        second.cancel()
        await _settle()
    third = asyncio.create_task(_pass(gate, log, "c", "t", leave))
    await _settle()
    assert log == ["c"]
    leave.set()
    await third
