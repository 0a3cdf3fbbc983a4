"""The coordinator's shell: who may join, what is durable before it is answered, and who hears of changes."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator

import grpc
import pytest
from prometheus_client import CollectorRegistry

from cluster import control_pb2, control_pb2_grpc, serving_pb2, serving_pb2_grpc
from cluster.admin import ClusterAdapters, ClusterStatus
from cluster.control_service import ControlService
from cluster.coordinator import Coordinator, CoordinatorConfig
from cluster.events import LoadAsked, UnloadAsked
from cluster.metrics import Metrics
from cluster.operating_points import DEFAULT
from cluster.placement import POLICIES
from cluster.registry import Registry
from cluster.server import Server
from cluster.view import Adapter, Registration
from lorajax.errors import Unavailable
from tests.cluster.rig import on_loop

VERSION = "ab" * 32


class Host:
    """One scripted host on its stream: it reads every folder it is told to."""

    def __init__(self, stub, name="host-0", incarnation=1, fingerprint="tiny") -> None:
        self.call = stub.Join()
        self._said = control_pb2.Hello(
            host=name,
            address="127.0.0.1:1",
            incarnation=incarnation,
            host_bytes=2**30,
            num_adapter_pages=64,
            max_sequences=4,
            speed=1.0,
            fingerprint=fingerprint,
            model="tiny",
            software_version="0",
            beat=control_pb2.Beat(state="serving", has_copies=True),
        )

    async def join(self) -> None:
        await self.call.write(control_pb2.HostMessage(hello=self._said))

    async def work(self) -> None:
        async for order in self.call:
            outcome = control_pb2.Outcome(number=order.number)
            if order.HasField("read"):
                outcome.spec.CopyFrom(control_pb2.AdapterSpec(version=VERSION, rank=8, targets=["q_proj"], bytes=64))
                beat = control_pb2.Beat(state="serving", has_copies=True)
                beat.copies.add(version=VERSION, level="host")
                await self.call.write(control_pb2.HostMessage(beat=beat))
            await self.call.write(control_pb2.HostMessage(outcome=outcome))


class Rig:
    """A coordinator's server over loopback."""

    def __init__(
        self, control: ControlService, registry: Registry, ticking: asyncio.Task[None], channel: grpc.aio.Channel
    ) -> None:
        self.control, self.registry, self.ticking = control, registry, ticking
        self.stub = control_pb2_grpc.ControlStub(channel)
        self.adapters = serving_pb2_grpc.AdaptersStub(channel)
        self.cluster = serving_pb2_grpc.ClusterStub(channel)
        self._tasks: list[asyncio.Task[None]] = []

    async def host(self, **options) -> Host:
        """A host that has joined and works."""
        host = Host(self.stub, **options)
        await host.join()
        self._tasks.append(asyncio.create_task(host.work()))
        async for table in self.control.changes():
            if table.hosts:
                return host
        raise AssertionError("changes end only with the test")


@contextlib.asynccontextmanager
async def coordinating(tmp_path, *, is_ready=True) -> AsyncIterator[Rig]:
    registry = Registry(tmp_path / "registry.sqlite")
    config = CoordinatorConfig(settle_s=0.0, interval_s=0.2)
    control = ControlService(Coordinator(config, DEFAULT, POLICIES["ours"]), registry, "tiny")
    control.is_ready = is_ready
    server = Server((), Metrics(CollectorRegistry()))
    control_pb2_grpc.add_ControlServicer_to_server(control, server.grpc)
    serving_pb2_grpc.add_AdaptersServicer_to_server(ClusterAdapters(control), server.grpc)
    serving_pb2_grpc.add_ClusterServicer_to_server(ClusterStatus(control), server.grpc)
    port = server.grpc.add_insecure_port("127.0.0.1:0")
    await server.grpc.start()
    ticking = asyncio.create_task(control.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield Rig(control, registry, ticking, channel)
        finally:
            control.close()
            ticking.cancel()
            await server.stop()
            registry.close()


def _load(rig, name="sql", **options):
    return rig.adapters.Load(serving_pb2.LoadAdapterRequest(name=name, path="sql", **options), timeout=20)


@on_loop
async def test_a_registration_is_durable_when_it_is_answered(tmp_path):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        info = await _load(rig, pin=True)
        assert (info.name, info.version, info.rank, info.pinned) == ("sql", VERSION, 8, True)
        other = Registry(tmp_path / "registry.sqlite")
        registrations, _ = other.load()
        other.close()
    assert [(one.name, one.adapter.version, one.is_pinned) for one in registrations] == [("sql", VERSION, True)]


@on_loop
async def test_a_restarted_coordinator_knows_what_was_registered(tmp_path):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        await _load(rig)
    async with coordinating(tmp_path) as rig:
        assert list(rig.control.table().registrations) == ["sql"]


@on_loop
async def test_list_and_status_name_hosts_by_what_they_hold(tmp_path):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        await _load(rig)
        (info,) = (await rig.adapters.List(serving_pb2.ListAdaptersRequest())).adapters
        (host,) = (await rig.cluster.Status(serving_pb2.StatusRequest())).hosts
    assert [(one.host, one.level) for one in info.residency] == [("host-0", "host")]
    assert [(one.name, one.level) for one in host.adapters] == [("sql", "host")]
    assert (host.name, host.state, host.model) == ("host-0", "serving", "tiny")


@on_loop
async def test_unload_takes_the_name_away_at_once(tmp_path):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        await _load(rig)
        reply = await rig.adapters.Unload(serving_pb2.UnloadAdapterRequest(name="sql"), timeout=20)
        assert (reply.name, reply.version) == ("sql", VERSION)
        assert not (await rig.adapters.List(serving_pb2.ListAdaptersRequest())).adapters


@on_loop
async def test_an_unknown_name_is_not_found(tmp_path):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.adapters.Pin(serving_pb2.PinAdapterRequest(name="sql"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@on_loop
async def test_a_host_that_serves_something_else_is_refused(tmp_path):
    async with coordinating(tmp_path) as rig:
        host = Host(rig.stub, fingerprint="other")
        await host.join()
        assert await host.call.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "start every host with the same model" in await host.call.details()


@on_loop
async def test_a_new_life_of_a_host_ends_the_stream_of_the_old_one(tmp_path):
    async with coordinating(tmp_path) as rig:
        old = await rig.host(incarnation=1)
        await rig.host(incarnation=2)
        assert await old.call.code() is grpc.StatusCode.OK
        (view,) = rig.control.table().hosts.values()
        assert view.spec.incarnation == 2


@on_loop
async def test_watchers_get_the_table_and_then_beats(tmp_path):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        updates = rig.stub.WatchTable(control_pb2.WatchTableRequest(name="test"))
        first = await updates.read()
        assert [host.hello.host for host in first.table.hosts] == ["host-0"]
        await _load(rig)
        kinds = set()
        while "beats" not in kinds:
            kinds.add((await updates.read()).WhichOneof("kind"))
        updates.cancel()


@on_loop
async def test_a_placement_is_streamed_when_it_changes(tmp_path):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        watching = rig.cluster.WatchPlacement(serving_pb2.WatchPlacementRequest())
        await watching.read()
        await _load(rig)
        while not (reply := await watching.read()).shares:
            pass
        watching.cancel()
    assert [(share.adapter, share.host, share.share) for share in reply.shares] == [("sql", "host-0", 1.0)]


_PIN = ("Pin", serving_pb2.PinAdapterRequest(name="sql"))
_LOAD = ("Load", serving_pb2.LoadAdapterRequest(name="sql", path="sql"))
_UNLOAD = ("Unload", serving_pb2.UnloadAdapterRequest(name="sql"))


@pytest.mark.parametrize(("method", "message"), [_LOAD, _UNLOAD, _PIN])
@on_loop
async def test_no_name_is_changed_before_front_doors_follow(tmp_path, method, message):
    async with coordinating(tmp_path, is_ready=False) as rig:
        await rig.host()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(rig.adapters, method)(message, timeout=20)  # a stub has a method per call
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        "the cluster is starting; try again",
    )
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"


@contextlib.asynccontextmanager
async def unwritable(tmp_path) -> AsyncIterator[Rig]:
    """A coordinator that knows `sql`, and whose registry refuses every write from now on; its host reads nothing."""
    known = Registry(tmp_path / "registry.sqlite")
    adapter = Adapter(version=VERSION, rank=8, num_bytes=64, path="/adapters/sql")
    known.save(Registration(name="sql", adapter=adapter))
    known.close()
    async with coordinating(tmp_path) as rig:
        await Host(rig.stub).join()
        async for table in rig.control.changes():
            if table.hosts:
                break
        rig.registry._database.execute("PRAGMA query_only = ON")
        yield rig


def _unload(rig):
    return rig.control.ask(UnloadAsked(call=rig.control.next_call(), name="sql", force=True))


@on_loop
async def test_a_failed_write_ends_the_process(tmp_path):
    async with unwritable(tmp_path) as rig:
        with pytest.raises(Unavailable, match="cannot write its registry"):
            await _unload(rig)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await rig.ticking


@on_loop
async def test_whoever_waits_is_told_of_a_failed_write(tmp_path):
    async with unwritable(tmp_path) as rig:
        asked = LoadAsked(call=rig.control.next_call(), name="other", path="other")
        waiting = asyncio.create_task(rig.control.ask(asked))
        await asyncio.sleep(0)
        assert not waiting.done()
        answers = await asyncio.gather(_unload(rig), waiting, return_exceptions=True)
        assert [type(one) for one in answers] == [Unavailable, Unavailable]


@on_loop
async def test_after_a_failed_write_calls_are_refused(tmp_path):
    async with unwritable(tmp_path) as rig:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rig.adapters.Unload(serving_pb2.UnloadAdapterRequest(name="sql"), timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@on_loop
async def test_what_could_not_be_written_is_told_to_nobody(tmp_path):
    async with unwritable(tmp_path) as rig:
        with rig.control.watching() as updates:
            await asyncio.gather(_unload(rig), return_exceptions=True)
            rig.control.publish()
            told = [updates.get_nowait() for _ in range(updates.qsize())]
    tables = [update.table for update in told if update.HasField("table")]
    assert [[entry.name for entry in table.entries] for table in tables] == [["sql"]] * len(tables)
