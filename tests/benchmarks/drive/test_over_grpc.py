"""gRPC over loopback, against a scripted server."""

import asyncio
import socket

import grpc
import pytest

from benchmarks.drive.over_grpc import GrpcServer
from benchmarks.drive.records import Call, CallFailed, Ending
from benchmarks.drive.watch import watching
from tests.cluster.scripted_server import FINAL, answer, fail, serving, tokens

CALL = Call(prompt=(5, 6, 7), max_tokens=3, adapter="pirate", timeout_s=10.0)


def talk(target, call=CALL):
    """(messages, ending) of one request."""

    async def go():
        messages = []
        async with GrpcServer(target) as server:
            return messages, await server.generate(call, messages.append)

    return asyncio.run(go())


def test_messages_are_heard_with_their_tokens_and_the_ending_counts():
    with serving(answer(tokens("a", "b"), tokens("c"), FINAL)) as server:
        messages, ending = talk(server.target)
    assert messages == [2, 1]
    assert ending == Ending(prompt_tokens=5, output_tokens=3, host="here", first_token_s=0.13, adapter_wait_s=0.02)


def test_the_request_names_the_adapter_and_goes_on_after_end_tokens():
    with serving(answer(FINAL)) as server:
        talk(server.target)
    (request,) = server.requests
    assert ([use.name for use in request.adapters], list(request.token_ids.ids)) == (["pirate"], [5, 6, 7])
    assert (request.sampling.max_tokens, request.sampling.ignore_eos) == (3, True)


def test_text_is_sent_as_text():
    with serving(answer(FINAL)) as server:
        talk(server.target, Call(prompt="the and", max_tokens=1, adapter="", timeout_s=10.0))
    assert (server.requests[0].text, len(server.requests[0].adapters)) == ("the and", 0)


def test_a_failure_is_not_tried_again():
    refusal = fail(grpc.StatusCode.UNAVAILABLE, "later", pushback_ms=1)
    with serving(refusal, answer(FINAL)) as server, pytest.raises(CallFailed, match="later") as caught:
        talk(server.target)
    assert (caught.value.code, len(server.requests)) == ("UNAVAILABLE", 1)


def test_a_stream_without_its_last_message_failed():
    with serving(answer(tokens("a"))) as server, pytest.raises(CallFailed) as caught:
        talk(server.target)
    assert caught.value.code == "INTERNAL"


def test_nobody_there_is_a_failure_with_a_code():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(CallFailed) as caught:
        talk(target)
    assert caught.value.code == "UNAVAILABLE"


def test_the_offer_has_the_ranks():
    async def go(target):
        async with GrpcServer(target) as server:
            return await server.offer()

    with serving(answer(FINAL)) as server:
        offer = asyncio.run(go(server.target))
    assert (offer.name, offer.ranks, offer.max_model_len) == (server.target, {"pirate": 12}, None)


def test_watching_sees_what_hosts_hold_and_where_adapters_are_placed():
    async def go(target):
        async with GrpcServer(target) as server, watching(server.channel) as watch:
            while not (watch.looks and watch.placements):
                await asyncio.sleep(0)
        return watch

    with serving(answer(FINAL)) as server:
        watch = asyncio.run(go(server.target))
    use = watch.hosts([], [])["here"]
    assert (use.max_held_bytes, use.mean_held_bytes, use.max_held_adapters) == (3 * 2**20, 3 * 2**20, 1)
    assert watch.placements[0][1] == {"pirate": {"here": 1.0}}
