"""The coordinator's process: what its configuration means for rounds, and what is registered at the start."""

import asyncio
import contextlib
import logging
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from cluster import control_pb2_grpc, coordinator_server, launcher, serving_pb2
from cluster.cluster_config import ClusterConfig
from cluster.registry import Registry
from lorajax.config import EngineConfig
from lorajax.errors import BadRequest
from tests.cluster.rig import on_loop
from tests.cluster.test_control_service import Host, coordinating

HERE = (("sql", Path("/here")),)


class Control:
    """Remembers what it was asked; knows names by the folders they stand for, and refuses folders that are gone."""

    def __init__(self, *, known=None, gone=(), was_placed=True):
        self.asked = []
        self.was_placed = was_placed
        self._known, self._gone = known or {}, gone

    def table(self):
        registrations = {
            name: SimpleNamespace(adapter=SimpleNamespace(path=path)) for name, path in self._known.items()
        }
        return SimpleNamespace(registrations=registrations)

    def next_call(self):
        return 1

    async def ask(self, asked):
        self.asked.append((asked.name, asked.path, asked.replace))
        if asked.path in self._gone:
            raise BadRequest("no such folder")


@pytest.fixture
def registry(tmp_path):
    with contextlib.closing(Registry(tmp_path / "registry.sqlite")) as registry:
        yield registry


def preloaded(control, registry, preload=HERE):
    """What was asked for on the way."""
    asyncio.run(coordinator_server._preload_all(preload, control, registry))
    return control.asked


@pytest.mark.parametrize(("interval_s", "drop_after_s"), [(2.0, 5.0), (90.0, 90.0)])
def test_forecasts_and_copies_last_until_the_next_round(interval_s, drop_after_s):
    config = coordinator_server.coordinator_config(interval_s=interval_s, min_copies=1, budget_bytes=0)
    assert (config.demand.horizon_s, config.rounds.drop_after_s) == (interval_s, drop_after_s)


@pytest.mark.parametrize("known", [{}, {"sql": "/elsewhere"}])
def test_what_is_configured_is_registered_at_the_first_start(registry, known):
    assert preloaded(Control(known=known, was_placed=False), registry) == [("sql", "/here", True)]
    assert registry.preloaded() == {"sql": "/here"}


def test_what_is_registered_from_the_configured_folder_is_not_read_again(registry):
    assert preloaded(Control(known={"sql": "/here"}), registry) == []
    assert registry.preloaded() == {"sql": "/here"}


@pytest.mark.parametrize("known", [{"sql": "/elsewhere"}, {}], ids=["loaded from elsewhere", "unloaded"])
def test_what_calls_did_to_a_preloaded_name_outlives_a_restart(registry, known):
    registry.save_preloaded("sql", "/here")
    assert preloaded(Control(known=known), registry) == []


@pytest.mark.parametrize("known", [{"sql": "/before"}, {"sql": "/elsewhere"}, {}])
def test_an_edit_of_the_configuration_replaces_what_was_registered_from_another_folder(registry, known):
    registry.save_preloaded("sql", "/before")
    assert preloaded(Control(known=known), registry) == [("sql", "/here", True)]
    assert registry.preloaded() == {"sql": "/here"}


def test_a_restarted_coordinator_goes_on_without_a_folder_that_cannot_be_served(registry, caplog):
    with caplog.at_level(logging.ERROR, logger="lorajax"):
        preloaded(Control(gone=("/here",)), registry, (*HERE, ("poet", Path("/poet"))))
    assert "preload.sql = '/here': no such folder" in caplog.text
    assert registry.preloaded() == {"poet": "/poet"}


def test_a_folder_that_cannot_be_served_at_the_first_start_is_an_error(registry):
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="preload.sql = '/here': no such folder")):
        preloaded(Control(gone=("/here",), was_placed=False), registry)


@pytest.mark.parametrize(("is_unloaded", "folders"), [(False, ["v2"]), (True, [])], ids=["reload", "unload"])
@on_loop
async def test_what_was_acknowledged_for_a_preloaded_name_holds_after_a_restart(tmp_path, is_unloaded, folders):
    async with coordinating(tmp_path) as rig:
        await rig.host()
        await coordinator_server._preload_all(HERE, rig.control, rig.registry)
        await rig.adapters.Load(serving_pb2.LoadAdapterRequest(name="sql", path="v2", replace=True), timeout=20)
        if is_unloaded:
            await rig.adapters.Unload(serving_pb2.UnloadAdapterRequest(name="sql", force=True), timeout=20)
    async with coordinating(tmp_path) as rig:
        await rig.host()
        await coordinator_server._preload_all(HERE, rig.control, rig.registry)
        assert [one.adapter.path for one in rig.control.table().registrations.values()] == folders


def _config(tmp_path, **changes):
    engine = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=1)
    return ClusterConfig(file=Path("/c.toml"), model=Path("/m"), engine=engine, state_dir=tmp_path, **changes)


def test_a_registry_that_cannot_be_opened_is_one_clear_line(tmp_path):
    config = _config(tmp_path)
    (tmp_path / f"registry-{config.fingerprint_id}.sqlite").mkdir()
    with pytest.raises(OSError, match=f"cannot write the registry in {tmp_path}: .*; make room there"):
        coordinator_server.run(config)


@on_loop
async def test_a_registry_that_cannot_be_written_ends_the_process(tmp_path):
    with launcher._free("127.0.0.1:0") as address:
        pass
    config = _config(tmp_path, coordinator=address, preload=HERE)
    path = tmp_path / f"registry-{config.fingerprint_id}.sqlite"
    Registry(path).close()
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON registration BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        )
    database.close()
    serving = asyncio.create_task(coordinator_server._serve(config))
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        host = Host(control_pb2_grpc.ControlStub(channel), fingerprint=config.fingerprint)
        await host.join()
        working = asyncio.create_task(host.work())
        with pytest.raises(sqlite3.Error, match="disk is full"):
            await serving
        await asyncio.gather(working, return_exceptions=True)
