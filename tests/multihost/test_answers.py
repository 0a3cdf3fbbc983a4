"""The cluster gives the answers of one engine, on every host, by every adapter."""

import asyncio

import pytest

from tests.cluster.rig import on_loop
from tests.multihost.rig import HOSTS, MAX_SEQUENCES, PRELOADED, asking

pytestmark = pytest.mark.multihost
_MAX_ROUNDS = 8
_AT_ONCE = 2 * MAX_SEQUENCES * len(HOSTS)
"""So many that hosts outside the plan take some."""


@on_loop
async def test_every_host_answers_as_one_engine_does_by_every_adapter(cluster, expected):
    wanted = {name: expected(name) for name in PRELOADED}
    assert len(set(map(tuple, wanted.values()))) == len(wanted)
    missing, wrong = {(name, host) for name in wanted for host in HOSTS}, []
    async with asking(cluster) as asks:
        for _ in range(_MAX_ROUNDS):
            for name in {name for name, _ in missing}:
                streams = await asyncio.gather(*(asks.ask(name) for _ in range(_AT_ONCE)))
                missing -= {(name, stream.final.host) for stream in streams}
                wrong += [(name, stream.final.host) for stream in streams if stream.tokens != wanted[name]]
    assert (missing, wrong) == (set(), [])


@on_loop
async def test_mixed_requests_get_the_answers_that_each_gets_alone(cluster, expected):
    asked = [(), *((name,) for name in PRELOADED), ("rank4", "rank64"), ("rank8", "rank16")]
    async with asking(cluster) as asks:
        streams = await asyncio.gather(*(asks.ask(*names) for names in asked for _ in range(3)))
    answers = [stream.tokens for stream in streams]
    assert answers == [expected(*names) for names in asked for _ in range(3)]


@on_loop
async def test_the_version_that_answered_is_told(cluster, alone):
    async with asking(cluster) as asks:
        stream = await asks.ask("rank16")
    assert tuple(stream.final.adapter_versions) == (alone.adapters["rank16"].spec.version,)
