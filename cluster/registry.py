"""What outlives the coordinator: names, preloads, the round's number. Owns: one SQLite file. Decides nothing."""

import contextlib
import json
import logging
import sqlite3
from dataclasses import asdict
from pathlib import Path

from cluster.view import Adapter, Registration

_LOG = logging.getLogger("lorajax")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS registration (name TEXT PRIMARY KEY, adapter TEXT NOT NULL, is_pinned INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS round (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS preloaded (name TEXT PRIMARY KEY, folder TEXT NOT NULL);
"""


class Registry:
    """Durable registrations, by name.

    Invariant: what was saved or forgotten is on disk when the call returns; sqlite3.Error where it is not.
    Owner: the coordinator's event loop. Each write costs one flush of the disk.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; one that cannot be read is put aside as `*.corrupt` and begun anew.

        Raises: OSError or sqlite3.OperationalError where nothing can be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _opened(path)
            self._read()
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._database = _begun_anew(path, error)

    def load(self) -> tuple[tuple[Registration, ...], int]:
        """Everything registered, by name, and the number of the last round."""
        return self._read()

    def save(self, registration: Registration) -> None:
        """Keep a registration, in place of the one of its name."""
        row = (registration.name, json.dumps(asdict(registration.adapter)), registration.is_pinned)
        self._database.execute("INSERT OR REPLACE INTO registration VALUES (?, ?, ?)", row)

    def forget(self, name: str) -> None:
        """Remove a name, if it is there."""
        self._database.execute("DELETE FROM registration WHERE name = ?", (name,))

    def save_round(self, number: int) -> None:
        """Keep the number of the last round."""
        self._database.execute("INSERT OR REPLACE INTO round VALUES (1, ?)", (number,))

    def save_preloaded(self, name: str, folder: str) -> None:
        """Keep the folder from which the configuration's adapter of this name was last registered."""
        self._database.execute("INSERT OR REPLACE INTO preloaded VALUES (?, ?)", (name, folder))

    def preloaded(self) -> dict[str, str]:
        """The folder that was last kept for each preloaded name, also where the name was changed or unloaded since."""
        return dict(self._database.execute("SELECT name, folder FROM preloaded"))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _read(self) -> tuple[tuple[Registration, ...], int]:
        rows = self._database.execute("SELECT name, adapter, is_pinned FROM registration ORDER BY name")
        registrations = tuple(
            Registration(name=name, adapter=Adapter(**json.loads(adapter)), is_pinned=bool(is_pinned))
            for name, adapter, is_pinned in rows
        )
        row = self._database.execute("SELECT number FROM round").fetchone()
        return registrations, int(row[0]) if row else 0


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
        if (said := database.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(said)
    except BaseException:
        database.close()
        raise
    return database


def _begun_anew(path: Path, error: Exception) -> sqlite3.Connection:
    aside = path.with_name(path.name + ".corrupt")
    _LOG.warning(
        "registry %s cannot be read (%s); put aside as %s, every adapter must be loaded again", path, error, aside
    )
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    return _opened(path)
