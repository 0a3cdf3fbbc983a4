"""The coordinator's process: what its configuration means for rounds, and what is registered at the start."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import coordinator_server
from cluster.cluster_config import read


class Control:
    """Remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def next_call(self):
        return 1

    async def ask(self, asked):
        self.asked.append(asked)


@pytest.mark.parametrize(("interval_s", "drop_after_s"), [(2.0, 5.0), (90.0, 90.0)])
def test_forecasts_and_copies_last_until_the_next_round(tmp_path, interval_s, drop_after_s):
    file = tmp_path / "cluster.toml"
    file.write_text(f'[model]\npath = "base"\n[placement]\ninterval_s = {interval_s}\n')
    config = coordinator_server._coordinator_config(read(file, tmp_path / "home"))
    assert (config.demand.horizon_s, config.rounds.drop_after_s) == (interval_s, drop_after_s)


@pytest.mark.parametrize(("path", "paths"), [("/here", []), ("/elsewhere", ["/here"])])
def test_what_is_configured_replaces_what_was_registered_from_another_folder(path, paths):
    control, registered = Control(), SimpleNamespace(adapter=SimpleNamespace(path=path))
    asyncio.run(coordinator_server._preload(control, asyncio.Semaphore(1), "sql", Path("/here"), registered))
    assert [(one.path, one.replace) for one in control.asked] == [(one, True) for one in paths]
