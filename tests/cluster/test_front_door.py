"""The front door asks hosts, tries another one while nothing was answered, and says clearly when it cannot."""

import asyncio
from dataclasses import replace

import grpc
import pytest

from cluster import control_wire, front_door
from cluster.view import HostState
from tests.cluster.front_rig import PIRATE, ScriptedHost, serving
from tests.cluster.rig import on_loop

STREAM = [line for token in range(60) for line in (0.02, token)]


async def _answer(call) -> tuple[list[int], str]:
    replies = [reply async for reply in call]
    return [token.id for reply in replies for token in reply.tokens], replies[-1].final.host


async def _refusal(call) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _answer(call)
    return caught.value.code().name, caught.value.details()


@on_loop
async def test_an_answer_passes_as_it_came():
    async with serving(ScriptedHost("a", 1, 2, 3)) as rig:
        assert await _answer(rig.ask()) == ([1, 2, 3], "a")
        assert not rig.router.running


@on_loop
async def test_a_host_is_asked_by_version_and_told_who_holds_it():
    async with serving(ScriptedHost("a", 1), ScriptedHost("b")) as rig:
        await _answer(rig.ask("pirate"))
        host = rig.hosts["a"]
        hint = control_wire.hint_from_bytes(host.hints[0])
        assert [use.name for use in host.asked[0].adapters] == [PIRATE]
        assert (hint.adapter.version, [peer for peer, _ in hint.peers]) == (PIRATE, ["b"])


@pytest.mark.parametrize("refusal", ["drain", "full"])
@on_loop
async def test_a_refusal_before_the_first_token_is_tried_on_another_host(refusal):
    async with serving(ScriptedHost("a", refusal), ScriptedHost("b", 7)) as rig:
        assert await _answer(rig.ask()) == ([7], "b")
        assert rig.router.failed_hosts == []


@on_loop
async def test_a_host_that_is_not_there_is_tried_once_and_marked():
    async with serving(ScriptedHost("a", 1), ScriptedHost("b", 7)) as rig:
        await rig.hosts["a"].server.stop(None)
        assert await _answer(rig.ask()) == ([7], "b")
        assert rig.router.failed_hosts == ["a"]


@on_loop
async def test_a_silent_host_found_lost_before_the_first_token_is_replaced():
    async with serving(ScriptedHost("a", "hang"), ScriptedHost("b", 7)) as rig:
        call = rig.ask()
        assert await rig.hosts["a"].reached.get() == "hang"
        rig.door.update(rig.table(a=HostState.LOST))
        assert await _answer(call) == ([7], "b")


@on_loop
async def test_a_host_lost_after_a_token_ends_the_request_clearly():
    async with serving(ScriptedHost("a", 1, "hang"), ScriptedHost("b", 7)) as rig:
        call = rig.ask()
        assert (await call.read()).tokens[0].id == 1
        rig.door.update(rig.table(a=HostState.LOST))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert "host a was lost after 1 replies" in caught.value.details()
        assert not rig.hosts["b"].asked


@on_loop
async def test_what_a_host_said_before_it_left_is_still_passed_on():
    async with serving(ScriptedHost("a", 1, "wait", 2)) as rig:
        call = rig.ask()
        assert (await call.read()).tokens[0].id == 1
        rig.door.update(rig.table(a=HostState.LOST))
        rig.hosts["a"].may_go_on.set()
        assert (await call.read()).tokens[0].id == 2
        assert (await call.read()).final.host == "a"


@on_loop
async def test_a_request_that_meets_a_host_at_its_end_is_tried_on_another():
    async with serving(ScriptedHost("a", "end"), ScriptedHost("b", 7)) as rig:
        assert await _answer(rig.ask()) == ([7], "b")
        assert rig.router.failed_hosts == ["a"]


@on_loop
async def test_where_no_host_is_left_the_last_refusal_is_told():
    async with serving(ScriptedHost("a", "full"), ScriptedHost("b", "full")) as rig:
        assert await _refusal(rig.ask()) == ("RESOURCE_EXHAUSTED", "queue is full")


@on_loop
async def test_a_hosts_final_error_is_passed_on_in_the_callers_words():
    async with serving(ScriptedHost("a", "bad"), ScriptedHost("b", 7)) as rig:
        assert await _refusal(rig.ask("pirate")) == ("INVALID_ARGUMENT", "adapter pirate does not fit")


@on_loop
async def test_a_bad_request_reaches_no_host():
    async with serving(ScriptedHost("a", 1)) as rig:
        code, words = await _refusal(rig.ask(temperature=9))
        assert (code, rig.hosts["a"].asked) == ("INVALID_ARGUMENT", [])
        assert "temperature" in words


@on_loop
async def test_an_unknown_adapter_is_refused_with_those_that_look_alike():
    async with serving(ScriptedHost("a", 1)) as rig:
        code, words = await _refusal(rig.ask("pirat"))
        assert (code, "did you mean pirate" in words) == ("NOT_FOUND", True)


@on_loop
async def test_a_request_id_in_flight_is_not_taken_twice():
    async with serving(ScriptedHost("a", 1, "hang")) as rig:
        first = rig.ask(request_id="x")
        await first.read()
        code, _ = await _refusal(rig.ask(request_id="x"))
        assert code == "ALREADY_EXISTS"
        first.cancel()


@on_loop
async def test_a_caller_who_leaves_cancels_the_host_too():
    async with serving(ScriptedHost("a", 1, "hang")) as rig:
        call = rig.ask()
        await call.read()
        call.cancel()
        await asyncio.wait_for(rig.door.flights.wait_empty(), 5)
        assert not rig.router.running


@on_loop
async def test_a_deadline_ends_the_request():
    async with serving(ScriptedHost("a", "hang")) as rig:
        code, _ = await _refusal(rig.ask(timeout=0.2))
        assert code == "DEADLINE_EXCEEDED"
        await asyncio.wait_for(rig.door.flights.wait_empty(), 5)


@on_loop
async def test_a_front_door_that_drains_lets_nobody_in_and_waits_for_the_rest():
    async with serving(ScriptedHost("a", 1, "hang")) as rig:
        call = rig.ask()
        await call.read()
        rig.door.flights.drain()
        assert len(rig.door.flights) == 1
        code, _ = await _refusal(rig.ask())
        assert code == "UNAVAILABLE"
        call.cancel()
        await asyncio.wait_for(rig.door.flights.wait_empty(), 5)


@pytest.mark.parametrize("script", [(1, "hang"), ("hang",)])
@on_loop
async def test_what_outlasts_the_drain_ends_in_words_of_our_own(script):
    async with serving(ScriptedHost("a", *script)) as rig:
        call = rig.ask()
        await rig.hosts["a"].reached.get()
        rig.door.flights.drain()
        rig.door.flights.end_all()
        assert await _refusal(call) == (
            "UNAVAILABLE",
            "this front door is going; ask again, another process will answer",
        )
        await asyncio.wait_for(rig.door.flights.wait_empty(), 5)


@on_loop
async def test_a_host_whose_line_to_the_coordinator_broke_for_a_moment_loses_nothing():
    async with serving(ScriptedHost("a", 1, "hang")) as rig:
        call = rig.ask()
        await call.read()
        rig.door.update(rig.table(a=HostState.LOST))
        rig.door.update(rig.table())
        reading = asyncio.ensure_future(call.read())
        done, _ = await asyncio.wait([reading], timeout=2.5)  # longer than a lost host is given
        assert not done
        call.cancel()


@on_loop
async def test_a_stream_that_goes_on_outlives_the_loss_of_its_host(monkeypatch):
    monkeypatch.setattr(front_door, "REJOIN_S", 0.3)
    async with serving(ScriptedHost("a", *STREAM)) as rig:
        call = rig.ask()
        await rig.hosts["a"].reached.get()
        rig.door.update(rig.table(a=HostState.LOST))
        tokens, host = await _answer(call)
        assert (tokens[-1], host) == (59, "a")


@pytest.mark.parametrize("state", [HostState.LOST, HostState.SERVING])
@on_loop
async def test_a_stream_that_stands_still_is_ended_with_its_host_and_not_without(monkeypatch, state):
    monkeypatch.setattr(front_door, "REJOIN_S", 0.3)
    async with serving(ScriptedHost("a", *STREAM, "hang")) as rig:
        call = rig.ask(timeout=2.5)
        await rig.hosts["a"].reached.get()
        rig.door.update(rig.table(a=HostState.LOST))
        rig.door.update(rig.table(a=state))
        code, words = await _refusal(call)
    lost = ("ABORTED", "host a was lost after 60 replies; ask again")
    assert code == "DEADLINE_EXCEEDED" if state is HostState.SERVING else (code, words) == lost


@on_loop
async def test_an_answer_that_was_all_there_when_its_host_was_lost_is_an_answer(monkeypatch):
    monkeypatch.setattr(front_door, "REJOIN_S", 0.0)
    async with serving(ScriptedHost("a", 1, "final", "hang")) as rig:
        call = rig.ask()
        await call.read()
        final = await call.read()
        rig.door.update(rig.table(a=HostState.LOST))
        assert (final.final.host, await call.read(), await call.code()) == ("a", grpc.aio.EOF, grpc.StatusCode.OK)


@on_loop
async def test_where_the_last_host_drains_nobody_waits_for_it():
    async with serving(ScriptedHost("a", 1, "hang")) as rig:
        call = rig.ask()
        await call.read()
        rig.door.update(rig.table(a=HostState.DRAINING))
        rig.router.hosts.clear()
        assert await _refusal(rig.ask()) == ("UNAVAILABLE", "no host serves")
        call.cancel()


@on_loop
async def test_who_changed_something_is_answered_once_requests_go_by_it():
    async with serving(ScriptedHost("a", 1)) as rig:
        await rig.door.follow(1)
        waiting = asyncio.create_task(rig.door.follow(3))
        rig.door.update(replace(rig.table(), number=2))
        await asyncio.sleep(0)
        is_early = waiting.done()
        rig.door.update(replace(rig.table(), number=3))
        await waiting
        assert not is_early
