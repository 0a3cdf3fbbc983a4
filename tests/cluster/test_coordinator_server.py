"""The coordinator's process: what its configuration means for rounds, and what is registered at the start."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import coordinator_server


class Control:
    """Remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def next_call(self):
        return 1

    async def ask(self, asked):
        self.asked.append(asked)


@pytest.mark.parametrize(("interval_s", "drop_after_s"), [(2.0, 5.0), (90.0, 90.0)])
def test_forecasts_and_copies_last_until_the_next_round(interval_s, drop_after_s):
    config = coordinator_server.coordinator_config(interval_s=interval_s, min_copies=1, budget_bytes=0)
    assert (config.demand.horizon_s, config.rounds.drop_after_s) == (interval_s, drop_after_s)


@pytest.mark.parametrize(("path", "paths"), [("/here", []), ("/elsewhere", ["/here"])])
def test_what_is_configured_replaces_what_was_registered_from_another_folder(path, paths):
    control, registered = Control(), SimpleNamespace(adapter=SimpleNamespace(path=path))
    asyncio.run(coordinator_server._preload(control, asyncio.Semaphore(1), "sql", Path("/here"), registered))
    assert [(one.path, one.replace) for one in control.asked] == [(one, True) for one in paths]
