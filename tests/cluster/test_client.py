"""The caller's side against a scripted server on loopback."""

import asyncio
import socket

import grpc
import pytest

from cluster.client import Client, ClientError
from cluster.records import AdapterUse, Message, Piece, Question, Summary
from lorajax.spec import Level, Sampling
from tests.cluster.scripted_server import FINAL, answer, fail, serving, tokens

HELLO = Question(prompt="hello", sampling=Sampling(max_tokens=8))


def ask(target, question=HELLO, timeout_s=10.0):
    async def go():
        async with Client(target) as client:
            return [record async for record in client.generate(question, timeout_s=timeout_s)]

    return asyncio.run(go())


def on_client(target, action):
    async def go():
        async with Client(target) as client:
            return await action(client)

    return asyncio.run(go())


def free_target():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_tokens_come_in_order_then_one_summary():
    with serving(answer(tokens("a", "b"), tokens("c"), FINAL)) as server:
        records = ask(server.target)
    assert [record.text for record in records if isinstance(record, Piece)] == ["a", "b", "c"]
    assert isinstance(records[-1], Summary)


def test_summary_carries_usage_timing_versions_and_host():
    with serving(answer(FINAL)) as server:
        (summary,) = ask(server.target)
    assert (summary.num_prompt_tokens, summary.num_completion_tokens, summary.timing.prefill_s) == (5, 3, 0.1)
    assert (summary.finish_reason, summary.adapter_versions, summary.host) == ("stop", ("ab" * 32,), "here")


def test_question_arrives_as_it_was_asked():
    question = Question(
        prompt=(Message(role="user", content="hi"),),
        sampling=Sampling(max_tokens=8, top_p=0.5, seed=3, stop=("x", "y"), logprobs=0),
        adapters=(AdapterUse(name="pirate", weight=0.25),),
        priority=2,
    )
    with serving(answer(FINAL)) as server:
        ask(server.target, question)
    (request,) = server.requests
    assert request.WhichOneof("prompt") == "chat"
    assert (request.chat.messages[0].content, request.adapters[0].weight, request.priority) == ("hi", 0.25, 2)
    assert (request.sampling.top_p, request.sampling.seed, list(request.sampling.stop)) == (0.5, 3, ["x", "y"])
    assert request.sampling.HasField("logprobs")


def test_absent_seed_is_left_to_the_server():
    with serving(answer(FINAL)) as server:
        ask(server.target)
    assert not server.requests[0].sampling.HasField("seed")


def test_token_ids_are_sent_as_ids():
    with serving(answer(FINAL)) as server:
        ask(server.target, Question(prompt=(1, 2, 3), sampling=Sampling(max_tokens=1)))
    assert list(server.requests[0].token_ids.ids) == [1, 2, 3]


def test_unavailable_before_the_first_token_is_asked_again():
    refuse = fail(grpc.StatusCode.UNAVAILABLE, "starting", pushback_ms=10)
    with serving(refuse, refuse, answer(tokens("a"), FINAL)) as server:
        assert ask(server.target)[0].text == "a"
    assert len(server.requests) == 3


def test_failure_after_the_first_token_is_never_asked_again():
    with (
        serving(fail(grpc.StatusCode.UNAVAILABLE, "host lost", after=(tokens("a"),))) as server,
        pytest.raises(ClientError, match="host lost"),
    ):
        ask(server.target)
    assert len(server.requests) == 1


def test_overload_is_told_with_the_servers_retry_hint():
    full = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", pushback_ms=1500)
    with serving(full) as server, pytest.raises(ClientError) as caught:
        ask(server.target)
    assert (caught.value.code, caught.value.retry_s) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1.5)
    assert len(server.requests) == 1


def test_server_words_reach_the_caller():
    with serving(fail(grpc.StatusCode.NOT_FOUND, "no adapter 'x'")) as server, pytest.raises(ClientError, match="'x'"):
        ask(server.target)


def test_nobody_there_is_said_in_words():
    target = free_target()
    with pytest.raises(ClientError, match=f"nothing answers at {target}; start it with `lorajax serve`"):
        ask(target)


def test_deadline_ends_a_stream_that_does_not():
    def forever(context):
        while context.is_active():
            yield tokens("a")

    with serving(forever) as server, pytest.raises(ClientError, match=r"within 0\.3 s") as caught:
        ask(server.target, timeout_s=0.3)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_leaving_the_loop_cancels_on_the_server():
    ended = []

    def forever(context):
        context.add_callback(lambda: ended.append(True))
        while context.is_active():
            yield tokens("a")

    async def leave(client):
        stream = client.generate(HELLO)
        await anext(stream)
        await stream.aclose()

    with serving(forever) as server:
        on_client(server.target, leave)
    assert ended == [True]


def test_ready_server_is_found_ready():
    with serving(answer(FINAL)) as server:
        on_client(server.target, lambda client: client.wait_ready(5.0))


def test_server_that_never_gets_ready_is_an_error_in_time():
    with serving(answer(FINAL), is_ready=False) as server, pytest.raises(ClientError, match=r"within 0\.2 s"):
        on_client(server.target, lambda client: client.wait_ready(0.2))


def test_adapters_are_listed_with_where_they_are():
    with serving(answer(FINAL)) as server:
        (info,) = on_client(server.target, Client.adapters)
    assert (info.name, info.rank, info.num_bytes, info.is_pinned) == ("pirate", 12, 3 * 2**20, True)
    assert info.level_of == (("here", Level.DEVICE),)


def test_load_sends_every_choice():
    with serving(answer(FINAL)) as server:
        on_client(server.target, lambda client: client.load("pirate", "p", replace=True, pin=True))
    (request,) = server.requests
    assert (request.name, request.path, request.replace, request.pin) == ("pirate", "p", True, True)


def test_pin_off_is_sent_as_false_not_as_absent():
    with serving(answer(FINAL)) as server:
        on_client(server.target, lambda client: client.pin("pirate", on=False))
    assert server.requests[0].HasField("pin")


def test_unload_tells_how_many_still_finish():
    with serving(answer(FINAL)) as server:
        assert on_client(server.target, lambda client: client.unload("pirate")) == 2


def test_status_tells_pages_and_adapters_of_each_host():
    with serving(answer(FINAL)) as server:
        (host,) = on_client(server.target, Client.status)
    assert (host.kv_pages, host.adapter_pages, host.adapters[0].num_requests) == ((3, 9), (2, 8), 2)
