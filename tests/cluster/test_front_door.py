"""The front door asks hosts, tries another one while nothing was answered, and says clearly when it cannot."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest

from cluster import control_wire, serving_pb2_grpc
from cluster import serving_pb2 as pb
from cluster.front_door import FrontDoor
from cluster.host_channels import HostChannels
from cluster.routing import Route
from cluster.server import Server
from cluster.view import Adapter, HostName, HostSpec, HostState, HostView, Registration, Table
from lorajax.errors import Unavailable
from lorajax.spec import Level, Version
from tests.cluster.rig import on_loop

PUSHBACK = (("grpc-retry-pushback-ms", "100"),)
PIRATE = Version("a1" * 32)


class ScriptedHost:
    """Answers as its script says: numbers are tokens, the rest is done by name."""

    def __init__(self, name: str, *script: int | str) -> None:
        self.name, self.script = name, script
        self.asked: list[pb.GenerateRequest] = []
        self.hints: list[bytes] = []
        self.reached: asyncio.Queue[str] = asyncio.Queue()
        self.may_go_on = asyncio.Event()
        self.server: grpc.aio.Server

    async def Generate(self, request, context):
        self.asked.append(request)
        self.hints += [value for key, value in context.invocation_metadata() if key == control_wire.FETCH_KEY]
        for line in self.script:
            await self.reached.put(str(line))
            if isinstance(line, int):
                yield pb.GenerateReply(tokens=[pb.Token(id=line)])
            elif line == "hang":
                await asyncio.Event().wait()
            elif line == "wait":
                await self.may_go_on.wait()
            elif line == "end":
                await context.abort(grpc.StatusCode.CANCELLED)
            elif line == "drain":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "draining", PUSHBACK)
            elif line == "full":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full", PUSHBACK)
            elif line == "bad":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"adapter {PIRATE} does not fit")
        yield pb.GenerateReply(final=pb.Final(finish_reason="length", host=self.name, request_id=request.request_id))


@dataclass
class InOrder:
    """A router that takes the hosts in their order."""

    hosts: dict[HostName, str]
    failed_hosts: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)

    def update(self, table):
        pass

    def beat(self, *_):
        pass

    def choose(self, ask, now_s, exclude=frozenset()):
        for name, address in self.hosts.items():
            if name not in exclude:
                return Route(host=name, address=address, fetches=(), first_token_s=0.0, chosen_s=now_s)
        raise Unavailable("no host serves")

    def started(self, request_id, route, ask):
        self.running.add(request_id)

    def ended(self, request_id, now_s):
        self.running.discard(request_id)

    def failed(self, host, now_s):
        self.failed_hosts.append(host)

    def first_token(self, request_id, now_s):
        pass

    def generated(self, request_id, num_tokens):
        pass


@dataclass
class Rig:
    """A front door before scripted hosts."""

    door: FrontDoor
    router: InOrder
    hosts: dict[str, ScriptedHost]
    stub: serving_pb2_grpc.InferenceStub
    addresses: dict[str, str]

    def table(self, **states: HostState) -> Table:
        return Table(
            number=1,
            round=1,
            hosts={name: _view(name, self.addresses[name], states.get(name, HostState.SERVING)) for name in self.hosts},
            registrations={"pirate": _registration("pirate", PIRATE)},
            shares={},
        )

    def ask(self, *adapters: str, request_id="", timeout=None, **sampling):
        request = pb.GenerateRequest(
            request_id=request_id, text="hello", sampling=pb.Sampling(max_tokens=4, **sampling)
        )
        request.adapters.extend(pb.AdapterUse(name=name) for name in adapters)
        return self.stub.Generate(request, timeout=timeout)


def _registration(name, version):
    return Registration(name=name, adapter=Adapter(version=version, rank=8, num_bytes=1, path="/store/pirate"))


def _view(name, address, state):
    spec = HostSpec(
        name=HostName(name), address=address, incarnation=1, host_bytes=1, num_adapter_pages=1, max_sequences=4
    )
    return HostView(spec=spec, state=state, copies={PIRATE: Level.HOST} if name == "b" else {})


@contextlib.asynccontextmanager
async def serving(*hosts: ScriptedHost) -> AsyncIterator[Rig]:
    addresses = {}
    for host in hosts:
        host.server = grpc.aio.server()
        serving_pb2_grpc.add_InferenceServicer_to_server(host, host.server)
        addresses[host.name] = f"127.0.0.1:{host.server.add_insecure_port('127.0.0.1:0')}"
        await host.server.start()
    router = InOrder({HostName(name): address for name, address in addresses.items()})
    door = FrontDoor(router, HostChannels())
    server = Server((door.handlers(),))
    port = server.grpc.add_insecure_port("127.0.0.1:0")
    await server.grpc.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        rig = Rig(door, router, {host.name: host for host in hosts}, serving_pb2_grpc.InferenceStub(channel), addresses)
        door.update(rig.table())
        try:
            yield rig
        finally:
            await server.stop()
            await door.close()
            for host in hosts:
                await host.server.stop(None)


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
        await asyncio.wait_for(rig.door.wait_empty(), 5)
        assert not rig.router.running


@on_loop
async def test_a_deadline_ends_the_request():
    async with serving(ScriptedHost("a", "hang")) as rig:
        code, _ = await _refusal(rig.ask(timeout=0.2))
        assert code == "DEADLINE_EXCEEDED"
        await asyncio.wait_for(rig.door.wait_empty(), 5)


@on_loop
async def test_a_front_door_that_drains_lets_nobody_in_and_waits_for_the_rest():
    async with serving(ScriptedHost("a", 1, "hang")) as rig:
        call = rig.ask()
        await call.read()
        assert rig.door.drain() == 1
        code, _ = await _refusal(rig.ask())
        assert code == "UNAVAILABLE"
        call.cancel()
        await asyncio.wait_for(rig.door.wait_empty(), 5)


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
