import logging
import sqlite3

import pytest

from cluster.registry import Registry
from cluster.view import Adapter, Registration


def registration(name, version="v1", is_pinned=False):
    adapter = Adapter(version=version, rank=8, num_bytes=100, path=f"/adapters/{name}", min_copies=2)
    return Registration(name=name, adapter=adapter, is_pinned=is_pinned)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "registry.sqlite"


@pytest.fixture
def opened(path):
    registries = []

    def open_one():
        registries.append(Registry(path))
        return registries[-1]

    yield open_one
    for registry in registries:
        registry.close()


def test_new_registry_is_empty(opened):
    assert opened().load() == ((), 0)


def test_registrations_outlive_the_process(opened):
    opened().save(registration("pirate", is_pinned=True))
    assert opened().load()[0] == (registration("pirate", is_pinned=True),)


def test_what_is_saved_is_durable_without_closing(opened, path):
    opened().save(registration("pirate"))
    copy = path.with_name("copy.sqlite")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    other = Registry(copy)
    assert other.load()[0] == (registration("pirate"),)
    other.close()


def test_saving_a_name_again_replaces_it(opened):
    registry = opened()
    registry.save(registration("pirate", "v1"))
    registry.save(registration("pirate", "v2"))
    assert registry.load()[0] == (registration("pirate", "v2"),)


def test_forgotten_name_is_gone(opened):
    registry = opened()
    registry.save(registration("pirate"))
    registry.forget("pirate")
    assert registry.load()[0] == ()


def test_registrations_come_by_name(opened):
    registry = opened()
    for name in ("b", "c", "a"):
        registry.save(registration(name))
    assert [one.name for one in registry.load()[0]] == ["a", "b", "c"]


def test_last_round_is_kept(opened):
    opened().save_round(7)
    opened().save_round(8)
    assert opened().load()[1] == 8


def test_the_folder_last_applied_for_a_preloaded_name_is_kept(opened):
    opened().save_preloaded("sql", "/adapters/sql")
    opened().save_preloaded("sql", "/adapters/sql-v2")
    opened().save_preloaded("poet", "/adapters/poet")
    assert opened().preloaded() == {"sql": "/adapters/sql-v2", "poet": "/adapters/poet"}


def test_a_registry_from_before_preloads_were_kept_opens(opened, path):
    opened().save(registration("pirate"))
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE preloaded")
    database.close()
    registry = opened()
    assert (registry.load()[0], registry.preloaded()) == ((registration("pirate"),), {})


def test_writes_are_flushed_before_they_return(opened, path):
    registry = opened()
    assert registry._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert registry._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_corrupt_file_is_put_aside_and_begun_anew(opened, path, caplog):
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)
    with caplog.at_level(logging.WARNING, logger="lorajax"):
        assert opened().load() == ((), 0)
    assert "put aside" in caplog.text
    assert path.with_name("registry.sqlite.corrupt").read_bytes().startswith(b"no database")


def test_file_with_damaged_pages_is_put_aside(opened, path, caplog):
    registry = opened()
    for number in range(200):
        registry.save(registration(f"a{number}"))
    registry.close()
    data = bytearray(path.read_bytes())
    data[4096:8192] = bytes(4096)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="lorajax"):
        assert opened().load() == ((), 0)
    assert "cannot be read" in caplog.text


def test_row_that_is_no_adapter_is_corruption(opened, path):
    opened().close()
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO registration VALUES ('pirate', '{\"rank\": 8}', 0)")
    database.close()
    assert opened().load() == ((), 0)


def test_folder_that_cannot_be_written_is_an_error_and_no_corruption(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Registry(tmp_path / "file" / "registry.sqlite")
