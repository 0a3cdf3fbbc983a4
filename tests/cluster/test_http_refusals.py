"""HTTP over loopback: what is refused, with which code and field, and that the host lives on."""

import inspect

import pytest

from cluster.openai_reply import http_code
from cluster.wire import verdict_of
from lorajax import errors
from lorajax.errors import LorajaxError, Overloaded
from tests.cluster.gateway_rig import gateway_serving
from tests.cluster.http_rig import JSON, ask, chat, complete, http_serving, opened, post
from tests.cluster.rig import on_loop

TEXT = "/v1/completions"
OURS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LorajaxError)]


async def send(rig, data: bytes, path=TEXT):
    return await ask(rig, "POST", path, data, JSON)


BAD_FIELDS = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [""]}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt"),
    ({"prompt": [1, "b"]}, "prompt"),
    ({"prompt": [257]}, "prompt"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": "x" * 65}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"model": 7}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 64}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 2**64}, "max_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"logprobs": 21}, "logprobs"),
    ({"n": 2}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"echo": True}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"logit_bias": {"1": 5}}, "logit_bias"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop_token_ids": [257]}, "stop_token_ids"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"other": True}}, "stream_options.other"),
    ({"messages": []}, "messages"),
    ({"tools": []}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"min_tokens": 1}, "min_tokens"),
    ({"top_k": -2}, "top_k"),
    ({"guided_json": {}}, "guided_json"),
]


@pytest.mark.parametrize(("body", "param"), BAD_FIELDS, ids=lambda value: str(value)[:40])
@on_loop
async def test_bad_field_is_refused_by_its_name_and_the_engine_lives_on(tmp_path, body, param):
    async with http_serving(tmp_path) as rig:
        reply = await complete(rig, **body)
        assert (await complete(rig)).status == 200
    assert (reply.status, reply.error["type"], reply.error["param"]) == (400, "invalid_request_error", param)
    assert "\n" not in reply.error["message"]


BAD_CHATS = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "root", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "url": "x"}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": "hi", "name": "me"}]}, "messages[0].name"),
    ({"messages": [{"role": "assistant", "content": "hi", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": "x" * 64}]}, "prompt"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"chat_template_kwargs": {"tone": "loud"}}, "chat_template_kwargs.tone"),
    ({"prompt": "hi"}, "prompt"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
]


@pytest.mark.parametrize(("body", "param"), BAD_CHATS, ids=lambda value: str(value)[:60])
@on_loop
async def test_bad_field_of_a_chat_is_refused_by_its_name(tmp_path, body, param):
    async with http_serving(tmp_path) as rig:
        reply = await chat(rig, **body)
    assert (reply.status, reply.error["param"]) == (400, param)


@on_loop
async def test_gateway_refuses_the_same_fields_by_the_same_names(tmp_path):
    wanted = [(400, param) for _, param in (*BAD_FIELDS, *BAD_CHATS)]
    async with gateway_serving(tmp_path) as rig:
        replies = [await complete(rig, **body) for body, _ in BAD_FIELDS]
        replies += [await chat(rig, **body) for body, _ in BAD_CHATS]
        assert (await complete(rig)).status == 200
    assert [(reply.status, reply.error["param"]) for reply in replies] == wanted


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "a", "temperature": 1e999}',
        b'{"model": "tiny", "prompt": "a", "temperature": -Infinity}',
        b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "prompt": "a"} x',
        b'{"model": "tiny", "prompt": "\xff"}',
        b'{"model": "tiny", "prompt": "\\ud800"}',
        b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
        b'{"model": "tiny", "prompt": "a", "min_tokens": ' + b"9" * 5000 + b"}",
        b"\xef\xbb\xbf{}",
        b"[" * 500_000,
        b'{"model": "tiny", "prompt": ' + b"[" * 500_000,
        b'{"model": "tiny", "prompt": "a", "x": ' + b'{"a":' * 100_000,
    ],
    ids=lambda data: str(data[:60]),
)
@on_loop
async def test_body_that_is_not_our_json_is_the_callers_mistake(tmp_path, data):
    async with http_serving(tmp_path) as rig:
        reply = await send(rig, data)
        assert (await complete(rig)).status == 200
    assert (reply.status, reply.error["code"]) == (400, "invalid_argument")


@on_loop
async def test_null_is_absent(tmp_path):
    async with http_serving(tmp_path) as rig:
        names = ("temperature", "top_p", "n", "stop", "seed", "logprobs", "stream", "stream_options", "user", "suffix")
        assert (await complete(rig, **dict.fromkeys(names))).status == 200


@pytest.mark.parametrize("model", ["other", "other:sql", "tiny:other", "tiny:", "", ":", "../sql", "x" * 10_000])
@on_loop
async def test_unknown_model_is_not_found_and_the_base_is_named(tmp_path, model):
    async with http_serving(tmp_path) as rig:
        await rig.load("sql")
        reply = await complete(rig, model=model)
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    assert len(model) > 100 or "tiny" in reply.error["message"]


@on_loop
async def test_body_of_any_size_is_refused_before_it_is_read(tmp_path):
    async with http_serving(tmp_path) as rig:
        reply = await send(rig, b'{"prompt": "' + b"x" * 2**21)
        assert (await complete(rig)).status == 200
    assert (reply.status, rig.tokenizer.num_encoded) == (400, 5)
    assert "bytes" in reply.error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@on_loop
async def test_only_json_is_taken(tmp_path, kind):
    async with http_serving(tmp_path) as rig:
        reply = await ask(rig, "POST", TEXT, b'{"model": "tiny", "prompt": "a"}', {"Content-Type": kind})
    assert reply.status == 400
    assert "application/json" in reply.error["message"]


@on_loop
async def test_full_queue_says_when_to_come_back(tmp_path):
    async with http_serving(tmp_path) as rig:
        rig.engine.refusal = Overloaded("1024 requests wait", retry_s=2.5)
        reply = await complete(rig)
    assert (reply.status, reply.error["type"], reply.headers["retry-after"]) == (429, "rate_limit_error", "3")


@on_loop
async def test_bug_shows_an_incident_id_and_nothing_else(tmp_path, caplog):
    async with http_serving(tmp_path) as rig:
        rig.engine.refusal = KeyError("secret")
        reply = await complete(rig)
    incident = next(record for record in caplog.records if "incident" in record.message)
    assert (reply.status, reply.error["param"]) == (500, None)
    assert incident.args[0] in reply.error["message"]
    assert b"secret" not in reply.data


@pytest.mark.parametrize("path", ["../../etc", "/etc", "", "sql\0"])
@on_loop
async def test_adapter_outside_the_roots_is_refused(tmp_path, path):
    async with http_serving(tmp_path) as rig:
        reply = await post(rig, "/v1/load_lora_adapter", lora_name="sql", lora_path=path)
    assert (reply.status, reply.error["param"]) == (400, "lora_path")


@on_loop
async def test_adapter_s_name_is_checked(tmp_path):
    async with http_serving(tmp_path) as rig:
        reply = await post(rig, "/v1/load_lora_adapter", lora_name="../sql", lora_path="sql")
    assert (reply.status, reply.error["param"]) == (400, "lora_name")


@on_loop
async def test_adapter_may_not_take_the_base_model_s_name(tmp_path):
    async with http_serving(tmp_path) as rig:
        reply = await post(rig, "/v1/load_lora_adapter", lora_name="tiny", lora_path="sql")
    assert (reply.status, reply.error["param"]) == (400, "lora_name")
    assert "base model" in reply.error["message"]


@on_loop
async def test_more_requests_than_allowed_are_refused(tmp_path):
    async with http_serving(tmp_path, is_paced=True, max_streams=1) as rig:
        _, writer = await opened(rig)
        await rig.calls.get()
        reply = await complete(rig)
        writer.close()
    assert (reply.status, reply.error["code"]) == (429, "resource_exhausted")


CODES = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "FAILED_PRECONDITION": 412,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "DATA_LOSS": 500,
    "INTERNAL": 500,
}


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_each_error_has_the_http_code_of_its_status(kind):
    verdict = verdict_of(kind("words"), "i1")
    assert http_code(verdict) == CODES[verdict.code.name]
