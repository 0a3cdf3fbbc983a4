"""Generate over loopback: what is refused, with which status, and that the host lives on."""

import asyncio
import math
from dataclasses import replace

import pytest

from cluster import serving_pb2 as pb
from lorajax.errors import EngineFailure, Overloaded
from tests.cluster.rig import answer, on_loop, refusal, request, serving
from tests.fakes import model_spec

FIELDS_OF_2 = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"text": ""}, "text"),
        ({"token_ids": pb.TokenIds()}, "token_ids"),
        ({"chat": pb.Chat()}, "chat"),
        ({"chat": pb.Chat(messages=[pb.Message(role="root", content="hi")])}, "chat.messages[0].role"),
        ({"token_ids": pb.TokenIds(ids=[257])}, "token_ids.ids"),
        ({"token_ids": pb.TokenIds(ids=[1] * 64)}, "prompt"),
        ({"text": "x" * 65}, "prompt"),
        ({"sampling": {}}, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": 0}}, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": 2**31}}, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": 60}}, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": 1, "top_k": 2**21}}, "sampling.top_k"),
        ({"sampling": {"max_tokens": 1, "logprobs": 10**6}}, "sampling.logprobs"),
        ({"sampling": {"max_tokens": 1, "stop": ["x"] * 10_000}}, "sampling.stop"),
        ({"sampling": {"max_tokens": 1, "stop": [""]}}, "sampling.stop"),
        ({"sampling": {"max_tokens": 1, "stop": ["x" * 2**20]}}, "sampling.stop"),
        ({"sampling": {"max_tokens": 1, "stop_token_ids": [1] * 65}}, "sampling.stop_token_ids"),
        ({"sampling": {"max_tokens": 1, "stop_token_ids": [257]}}, "sampling.stop_token_ids"),
        ({"request_id": "two words"}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"adapters": ["../../etc/passwd"]}, "adapters[0].name"),
        ({"adapters": ["x" * 10_000]}, "adapters[0].name"),
        ({"adapters": ["", "sqｌ"]}, "adapters[1].name"),
        ({"adapters": ["sql"] * 65}, "adapters"),
        *(
            ({"sampling": {"max_tokens": 1, name: value}}, f"sampling.{name}")
            for name in FIELDS_OF_2
            for value in (math.nan, math.inf, -math.inf, -2.5, 2.5)
        ),
    ],
)
@on_loop
async def test_bad_field_is_refused_by_its_path_and_the_engine_lives_on(tmp_path, fields, field):
    async with serving(tmp_path) as rig:
        got = await refusal(rig.inference.Generate(request(**fields)))
        await answer(rig.inference.Generate(request()))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", field)
    assert "\n" not in got.message


@on_loop
async def test_request_without_a_prompt_is_refused(tmp_path):
    async with serving(tmp_path) as rig:
        got = await refusal(rig.inference.Generate(pb.GenerateRequest(sampling=pb.Sampling(max_tokens=1))))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", "prompt")


@on_loop
async def test_prompt_that_is_too_long_is_refused_with_both_numbers(tmp_path):
    async with serving(tmp_path) as rig:
        got = await refusal(rig.inference.Generate(request("x" * 65)))
    assert "65" in got.message
    assert "64" in got.message


@on_loop
async def test_eight_megabytes_are_refused_before_they_are_tokenised(tmp_path):
    async with serving(tmp_path) as rig:
        got = await refusal(rig.inference.Generate(request("x" * 2**23)))
        assert (got.code, got.field, rig.tokenizer.num_encoded) == ("INVALID_ARGUMENT", "text", 0)


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ({"text": "z"}, "text"),
        ({"token_ids": pb.TokenIds(ids=[1, 122])}, "token_ids.ids"),
        ({"chat": pb.Chat(messages=[pb.Message(role="user", content="z")])}, "chat.messages"),
    ],
)
@on_loop
async def test_token_that_the_model_has_no_row_for_is_refused_whoever_encoded_it(tmp_path, prompt, field):
    small = replace(model_spec(), vocab_size=122, stop_token_ids=())
    async with serving(tmp_path, model=small) as rig:
        got = await refusal(rig.inference.Generate(request(**prompt)))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", field)
    assert "token id 122 is outside the model's vocabulary, 0 … 121" in got.message


@on_loop
async def test_nul_in_a_prompt_is_a_character_like_others(tmp_path):
    async with serving(tmp_path) as rig:
        _, _, final = await answer(rig.inference.Generate(request("a\0b")))
    assert final.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x02\xff\xfe", b"\x7b" * 200 + b"\x7c" * 200, b"\x0a\x7f"],
    ids=["bad UTF-8", "nested 200 deep", "cut short"],
)
@on_loop
async def test_message_that_cannot_be_parsed_is_the_callers_mistake(tmp_path, data):
    async with serving(tmp_path) as rig:
        raw = rig.channel.unary_stream("/lorajax.v1.Inference/Generate", response_deserializer=lambda reply: reply)
        assert (await refusal(raw(data))).code == "INVALID_ARGUMENT"
        await answer(rig.inference.Generate(request()))


@on_loop
async def test_unknown_proto_fields_are_ignored(tmp_path):
    async with serving(tmp_path) as rig:
        raw = rig.channel.unary_stream("/lorajax.v1.Inference/Generate", response_deserializer=lambda reply: reply)
        unknown = b"\xfa\x3f\x03abc"  # field 1023
        assert [reply async for reply in raw(request().SerializeToString() + unknown)]


@on_loop
async def test_other_protocols_on_the_port_do_no_harm(tmp_path):
    async with serving(tmp_path) as rig:
        host, port = rig.target.split(":")
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(256)) * 4):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            await reader.read()
            writer.close()
            await writer.wait_closed()
        await answer(rig.inference.Generate(request()))


@on_loop
async def test_huge_metadata_is_refused_by_grpc(tmp_path):
    async with serving(tmp_path) as rig:
        got = await refusal(rig.inference.Generate(request(), metadata=(("x-big", "x" * 40_000),)))
    assert got.code == "RESOURCE_EXHAUSTED"


@on_loop
async def test_two_requests_in_flight_may_not_share_an_id(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        first = rig.inference.Generate(request(request_id="r1"))
        await rig.called("submit", "r1")
        got = await refusal(rig.inference.Generate(request(request_id="r1")))
        first.cancel()
    assert got.code == "ALREADY_EXISTS"


@on_loop
async def test_unknown_adapter_is_answered_with_the_nearest_names(tmp_path):
    async with serving(tmp_path) as rig:
        for name in ("sql-1", "sql-2", "sql-3", "sql-4", "poems"):
            await rig.load(name)
        got = await refusal(rig.inference.Generate(request(adapters=["sql-5"])))
    assert got.code == "NOT_FOUND"
    assert got.message.count("sql-") == 4
    assert "poems" not in got.message


@pytest.mark.parametrize("weight", [math.nan, math.inf, 9.0])
@on_loop
async def test_weight_outside_its_range_is_refused(tmp_path, weight):
    async with serving(tmp_path) as rig:
        await rig.load("sql")
        message = request()
        message.adapters.add(name="sql", weight=weight)
        got = await refusal(rig.inference.Generate(message))
    assert (got.code, got.field) == ("INVALID_ARGUMENT", "adapters")


@on_loop
async def test_full_queue_says_when_to_come_back(tmp_path):
    async with serving(tmp_path) as rig:
        rig.engine.refusal = Overloaded("1024 requests wait", retry_s=0.25)
        got = await refusal(rig.inference.Generate(request()))
    assert (got.code, got.retry_s, got.pushback_ms) == ("RESOURCE_EXHAUSTED", 0.25, "250")


@on_loop
async def test_more_streams_than_allowed_are_refused(tmp_path):
    async with serving(tmp_path, is_paced=True, max_streams=1) as rig:
        stream = rig.inference.Generate(request(request_id="r1"))
        await rig.called("submit", "r1")
        got = await refusal(rig.inference.Generate(request()))
        stream.cancel()
    assert got.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("error", [KeyError("secret"), EngineFailure("secret")], ids=["unknown", "engine failure"])
@on_loop
async def test_a_bug_shows_an_incident_id_and_nothing_else(tmp_path, caplog, error):
    async with serving(tmp_path) as rig:
        rig.engine.refusal = error
        got = await refusal(rig.inference.Generate(request()))
    assert got.code == "INTERNAL"
    assert "secret" not in got.message
    incident = next(record for record in caplog.records if "incident" in record.message)
    assert incident.args[0] in got.message
    assert "secret" in caplog.text
