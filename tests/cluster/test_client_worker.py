"""The caller's side against a real worker with a fake engine: both ends of the wire agree."""

import asyncio

import grpc
import pytest

from cluster.client import Client, ClientError
from cluster.records import AdapterUse, Message, Piece, Question, Summary
from lorajax.spec import Level, Sampling
from tests.cluster import rig
from tests.fakes import says, write_adapter

HELLO = Question(prompt="hello", sampling=Sampling(max_tokens=4))


async def ask(client, question=HELLO):
    return [record async for record in client.generate(question, timeout_s=10)]


@rig.on_loop
async def test_text_and_summary_arrive(tmp_path):
    async with rig.serving(tmp_path, token=says("four")) as served, Client(served.target) as client:
        *pieces, summary = await ask(client)
    assert "".join(piece.text for piece in pieces) == "four"
    assert (summary.finish_reason, summary.num_completion_tokens, summary.host) == ("length", 4, "h0")


@rig.on_loop
async def test_every_sampling_default_is_accepted(tmp_path):
    async with rig.serving(tmp_path) as served, Client(served.target) as client:
        records = await ask(client)
    assert [type(record) for record in records] == [Piece] * 4 + [Summary]


@rig.on_loop
async def test_conversation_is_rendered_by_the_server(tmp_path):
    question = Question(prompt=(Message(role="user", content="hi"),), sampling=Sampling(max_tokens=1))
    async with rig.serving(tmp_path) as served, Client(served.target) as client:
        *_, summary = await ask(client, question)
    assert summary.num_prompt_tokens > len("hi")


@rig.on_loop
async def test_loaded_adapter_is_listed_pinned_used_and_forgotten(tmp_path):
    write_adapter(tmp_path / "pirate", rank=12)
    async with rig.serving(tmp_path) as served, Client(served.target) as client:
        loaded = await client.load("pirate", str(tmp_path / "pirate"), pin=True)
        assert await client.adapters() == (loaded,)
        *_, summary = await ask(
            client, Question(prompt="x", sampling=Sampling(max_tokens=1), adapters=(AdapterUse(name="pirate"),))
        )
        await client.unload("pirate")
        assert await client.adapters() == ()
    assert (loaded.rank, loaded.is_pinned, summary.adapter_versions) == (12, True, (loaded.version,))


@rig.on_loop
async def test_levels_are_those_of_the_design(tmp_path):
    write_adapter(tmp_path / "pirate")
    async with rig.serving(tmp_path) as served, Client(served.target) as client:
        info = await client.load("pirate", "pirate")
    assert all(isinstance(level, Level) for _, level in info.level_of)


@rig.on_loop
async def test_unknown_adapter_is_answered_with_near_names(tmp_path):
    write_adapter(tmp_path / "pirate")
    question = Question(prompt="x", sampling=Sampling(max_tokens=1), adapters=(AdapterUse(name="pirat"),))
    async with rig.serving(tmp_path) as served, Client(served.target) as client:
        await client.load("pirate", "pirate")
        with pytest.raises(ClientError, match="pirate") as caught:
            await ask(client, question)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


@rig.on_loop
async def test_a_host_that_is_starting_is_asked_again_until_it_answers(tmp_path):
    async with rig.serving(tmp_path, is_open=False) as served, Client(served.target) as client:
        asked = asyncio.create_task(ask(client))
        await client.status()
        await served.worker.open()
        assert len(await asked) == 5


@rig.on_loop
async def test_wait_ready_returns_when_the_host_opens(tmp_path):
    async with rig.serving(tmp_path, is_open=False) as served, Client(served.target) as client:
        waiting = asyncio.create_task(client.wait_ready(10.0))
        await client.status()
        assert not waiting.done()
        await served.worker.open()
        await waiting


@rig.on_loop
async def test_drained_host_says_so_and_tells_when_to_come_back(tmp_path):
    async with rig.serving(tmp_path) as served, Client(served.target) as client:
        assert await client.drain() == 0
        (host,) = await client.status()
        with pytest.raises(ClientError) as caught:
            await ask(client)
    assert (host.state, caught.value.code) == ("draining", grpc.StatusCode.UNAVAILABLE)
    assert caught.value.retry_s is not None
