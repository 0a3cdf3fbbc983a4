"""HTTP over loopback, against sockets with a script and against our own front."""

import asyncio
import json

import pytest

from benchmarks.drive.over_http import HttpServer
from benchmarks.drive.records import Call, CallFailed, Ending
from tests.benchmarks.drive.rig import http_script
from tests.cluster.http_rig import http_serving
from tests.cluster.rig import on_loop

CALL = Call(prompt=(5, 6, 7), max_tokens=3, adapter="sql", timeout_s=10.0)


def whole(status, body):
    data = json.dumps(body).encode()
    return [f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data]


def events(*bodies):
    parts = [b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n" for body in bodies]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


def text(piece):
    return {"choices": [{"index": 0, "text": piece}]}


VLLM = [
    {"id": "llama", "owned_by": "vllm", "parent": None, "max_model_len": 4096},
    {"id": "sql", "parent": "llama"},
    {"id": "law", "parent": "llama"},
]
MODELS = whole(200, {"object": "list", "data": VLLM})
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
ANSWER = events(text("a"), text("b"), text(""), USAGE, b"[DONE]")


async def talk(url, *calls):
    """(messages, endings) of requests that follow one another."""
    messages, endings = [], []
    async with HttpServer(url) as server:
        await server.offer()
        for call in calls:
            endings.append(await server.generate(call, messages.append))
    return messages, endings


@on_loop
async def test_messages_are_heard_and_the_usage_counts():
    async with http_script(MODELS, ANSWER) as (url, _):
        messages, (ending,) = await talk(url, CALL)
    assert (messages, ending) == ([1, 1, 1], Ending(prompt_tokens=5, output_tokens=3))


@on_loop
async def test_message_that_only_ends_the_answer_is_no_token():
    over = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    async with http_script(MODELS, events(text("a"), text("b"), over, b"[DONE]")) as (url, _):
        messages, (ending,) = await talk(url, CALL)
    assert (messages, ending.output_tokens) == ([1, 1], None)


@on_loop
async def test_answer_ends_with_its_last_event_however_long_the_body_stays_open():
    async with http_script(MODELS, ANSWER[:-1]) as (url, _), asyncio.timeout(2.0):
        _, (ending,) = await talk(url, CALL)
    assert ending.output_tokens == 3


@on_loop
async def test_last_event_may_lack_its_end_of_line_and_an_error_may_be_null():
    usage = json.dumps(USAGE | {"error": None}).encode()
    part = b"data: " + json.dumps(text("a")).encode() + b"\n\ndata: " + usage
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(part)}\r\n\r\n".encode()
    async with http_script(MODELS, [head + part]) as (url, _):
        _, (ending,) = await talk(url, CALL)
    assert ending.output_tokens == 3


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (whole(200, text("abc")), "UNIMPLEMENTED", "does not stream"),
        (events(b'{"choices": [{"text": "\xc3"}]}'), "INTERNAL", "makes no sense: UnicodeDecodeError"),
        (events(text("a"), {"choices": [], "usage": [1]}), "INTERNAL", "makes no sense: AttributeError"),
        (events({"choices": 7}), "INTERNAL", "makes no sense: TypeError"),
    ],
)
@on_loop
async def test_answer_of_another_kind_fails_by_itself(answer, code, words):
    async with http_script(MODELS, answer) as (url, _):
        with pytest.raises(CallFailed, match=words) as caught:
            await talk(url, CALL)
    assert caught.value.code == code


@on_loop
async def test_key_goes_with_every_request_and_the_version_of_the_interface_may_be_in_the_url():
    async with http_script(MODELS, ANSWER) as (url, seen), HttpServer(f"{url}/v1/", "secret") as server:
        await server.offer()
        await server.generate(CALL, lambda _: None)
    assert [head.split(b" ")[1] for head in seen] == [b"/v1/models", b"/v1/completions"]
    assert all(b"authorization: Bearer secret" in head for head in seen)


@pytest.mark.parametrize("models", [["llama", "sql"], [{"object": "model"}], []])
@on_loop
async def test_list_of_models_without_names_is_told(models):
    async with http_script(whole(200, {"data": models})) as (url, _), HttpServer(url) as server:
        with pytest.raises(CallFailed, match="lists nothing"):
            await server.offer()


def test_url_with_a_blank_is_refused():
    with pytest.raises(ValueError, match="is not http://HOST:PORT"):
        HttpServer("http://127.0.0.1:8000/a b")


@on_loop
async def test_the_body_is_what_vllm_and_openai_know():
    async with http_script(MODELS, ANSWER) as (url, seen):
        await talk(url, CALL)
    head, _, body = seen[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert json.loads(body) == {
        "model": "sql",
        "prompt": [5, 6, 7],
        "max_tokens": 3,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@on_loop
async def test_the_offer_lists_adapters_without_ranks_and_the_context():
    async with http_script(MODELS) as (url, _), HttpServer(url) as server:
        offer = await server.offer()
    assert (offer.ranks, offer.max_model_len) == ({"sql": None, "law": None}, 4096)


@on_loop
async def test_sglang_gets_the_adapter_behind_the_base():
    cards = [{"id": "llama", "owned_by": "sglang"}, {"id": "sql", "owned_by": "sglang", "parent": "llama"}]
    async with http_script(whole(200, {"data": cards}), ANSWER) as (url, seen):
        await talk(url, CALL)
    assert b'"model": "llama:sql"' in seen[1]


@on_loop
async def test_the_base_model_is_asked_by_its_own_name():
    async with http_script(MODELS, ANSWER) as (url, seen):
        await talk(url, Call(prompt=(5,), max_tokens=1, adapter="", timeout_s=10.0))
    assert b'"model": "llama"' in seen[1]


@on_loop
async def test_requests_that_follow_one_another_share_a_connection():
    sockets = set()

    async def talk_back(reader, writer):
        sockets.add(writer)
        for reply in (MODELS, ANSWER, ANSWER):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.writelines(reply)
        writer.close()

    async with await asyncio.start_server(talk_back, "127.0.0.1", 0) as server:
        await talk(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", CALL, CALL)
    assert len(sockets) == 1


@on_loop
async def test_a_connection_on_which_the_server_said_more_is_not_used_again():
    late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    messages = []
    async with http_script(MODELS, [*ANSWER, late], ANSWER) as (url, _), HttpServer(url) as server:
        await server.offer()
        for _ in range(2):
            await server.generate(CALL, messages.append)
            await asyncio.sleep(0.1)
    assert messages == [1] * 6


@on_loop
async def test_a_connection_that_was_closed_while_idle_is_made_anew():
    messages = []
    async with http_script([*MODELS, b""], [*ANSWER, b""]) as (url, _), HttpServer(url) as server:
        await server.offer()
        for _ in range(2):
            await asyncio.sleep(0.1)  # idle: the server's end is heard
            await server.generate(CALL, messages.append)
    assert messages == [1] * 6


@on_loop
async def test_a_request_that_the_server_took_and_dropped_is_not_sent_again():
    async with http_script(MODELS, ANSWER, [b""], ANSWER) as (url, seen):
        with pytest.raises(CallFailed) as caught:
            await talk(url, CALL, CALL)
    assert (caught.value.code, len(seen)) == ("UNAVAILABLE", 3)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (whole(429, {"error": {"message": "full", "code": "resource_exhausted"}}), "RESOURCE_EXHAUSTED"),
        (whole(404, {"error": {"message": "no such model", "code": 404}}), "NOT_FOUND"),
        (whole(400, {"object": "error", "message": "too long"}), "INVALID_ARGUMENT"),
        (whole(502, "bad gateway"), "UNAVAILABLE"),
        (events(text("a"), {"error": {"message": "lost", "code": "aborted"}}), "ABORTED"),
        (events(text("a"), {"error": {"message": "oh", "code": 500}}), "INTERNAL"),
        (events(b"{no JSON"), "INTERNAL"),
        (events(b"[DONE]"), "INTERNAL"),
        ([*events(text("a"))[:2], b""], "UNAVAILABLE"),
        ([b"HTTP/1.0 200 OK\r\n\r\ndata: ", json.dumps(text("a")).encode() + b"\n\n", b""], "UNAVAILABLE"),
    ],
    ids=[
        "busy",
        "missing",
        "vllm's",
        "proxy",
        "in a stream",
        "status in a stream",
        "no JSON",
        "empty",
        "cut",
        "broken off",
    ],
)
@on_loop
async def test_what_goes_wrong_has_grpcs_name(reply, code):
    async with http_script(MODELS, reply) as (url, _):
        with pytest.raises(CallFailed) as caught:
            await talk(url, CALL)
    assert caught.value.code == code


@on_loop
async def test_an_answer_that_does_not_come_in_time_has_missed_its_deadline():
    async with http_script(MODELS, []) as (url, _):
        with pytest.raises(CallFailed) as caught:
            await talk(url, Call(prompt=(5,), max_tokens=1, adapter="", timeout_s=0.01))
    assert caught.value.code == "DEADLINE_EXCEEDED"


@on_loop
async def test_our_own_front_answers_as_wanted(tmp_path):
    async with http_serving(tmp_path) as rig:
        await rig.load("sql")
        messages, (ending,) = await talk(f"http://{rig.addresses['http']}", CALL)
    assert (ending.prompt_tokens, ending.output_tokens) == (3, 3)
    assert messages


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://here", "http://", "http://here:x", "http://here:99999"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="is not http://HOST:PORT"):
        HttpServer(url)
