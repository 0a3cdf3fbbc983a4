"""HTTP over loopback: completions, whole and streamed, and how they end."""

import asyncio
import json

import pytest

from cluster.openai_query import chat_query
from lorajax.errors import EngineFailure
from tests.cluster.gateway_rig import gateway_serving
from tests.cluster.http_rig import chat, complete, http_serving, leave, opened, submitted
from tests.cluster.rig import answer, on_loop, request
from tests.fakes import model_spec, says

MUCH = {"max_tokens": 30_000, "logprobs": 20, "temperature": 0}


@pytest.fixture(params=[http_serving, gateway_serving], ids=["host", "gateway"])
def answering(request):
    """Serves as its name says: one host, or a cluster's gateway before one."""
    return request.param


@on_loop
async def test_completion_is_openai_s(answering, tmp_path):
    async with answering(tmp_path, token=says("yes")) as rig:
        reply = await complete(rig, "hello", max_tokens=3)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    body = reply.json
    assert body.pop("id").startswith("cmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "object": "text_completion",
        "model": "tiny",
        "choices": [{"index": 0, "text": "yes", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }


@on_loop
async def test_chat_completion_is_openai_s(answering, tmp_path):
    async with answering(tmp_path, token=says("yes")) as rig:
        body = (await chat(rig, "hi", max_completion_tokens=9)).json
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    message = {"role": "assistant", "content": "yes"}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]


@on_loop
async def test_http_and_grpc_give_the_same_answer(answering, tmp_path):
    async with answering(tmp_path) as rig:
        ours, _, _ = await answer(rig.inference.Generate(request("user: hi\n", 8)))
        theirs = (await complete(rig, "user: hi\n", max_tokens=8)).json["choices"][0]["text"]
        chatted = (await chat(rig, "hi", max_tokens=8)).json["choices"][0]["message"]["content"]
    assert ours == theirs == chatted


@on_loop
async def test_defaults_that_clients_write_out_change_nothing(answering, tmp_path):
    shared = {"response_format": {"type": "text"}, "min_tokens": 0, "top_k": -1, "n": 1, "metadata": {"run": "7"}}
    silent = {"store": False, "skip_special_tokens": True, "include_stop_str_in_output": False}
    of_chats = {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "chat_template_kwargs": {}}
    async with answering(tmp_path) as rig:
        plain = await complete(rig), await chat(rig, max_tokens=4)
        written = (
            await complete(rig, **shared, **silent, add_special_tokens=True),
            await chat(rig, max_tokens=4, **shared, **silent, **of_chats),
        )
    assert [reply.json["choices"] for reply in written] == [reply.json["choices"] for reply in plain]


@on_loop
async def test_answer_may_be_sent_back_with_all_the_empty_fields_that_a_client_gives_it(answering, tmp_path):
    empty = {"refusal": None, "audio": None, "function_call": None, "tool_calls": [], "annotations": []}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    async with answering(tmp_path) as rig:
        plain = await chat(rig, messages=turns, max_tokens=4)
        written = await chat(rig, messages=[turn | empty for turn in turns], max_tokens=4)
    assert written.json["choices"] == plain.json["choices"]


@pytest.mark.parametrize("prompt", ["hi", ["hi"], [104, 105], [[104, 105]]])
@on_loop
async def test_one_prompt_may_be_written_in_each_of_openai_s_ways(answering, tmp_path, prompt):
    async with answering(tmp_path) as rig:
        written, plain = await complete(rig, prompt), await complete(rig, "hi")
    assert written.json["choices"] == plain.json["choices"]


@on_loop
async def test_message_may_be_a_list_of_texts(answering, tmp_path):
    async with answering(tmp_path) as rig:
        pieces = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
        whole, split = await chat(rig, "hi", max_tokens=4), await chat(rig, pieces, max_tokens=4)
    assert whole.json["choices"] == split.json["choices"]


@on_loop
async def test_streamed_completion_has_the_text_of_the_whole_one(answering, tmp_path):
    async with answering(tmp_path, token=says("aé日")) as rig:
        reply = await complete(rig, stream=True, max_tokens=6)
    *chunks, last = reply.events
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "aé日"
    assert [chunk["choices"][0]["finish_reason"] for chunk in (*chunks, last)] == [None] * len(chunks) + ["length"]
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {(last["id"], "text_completion")}
    assert all("usage" not in chunk for chunk in reply.events)


@on_loop
async def test_streamed_chat_begins_with_the_role_and_ends_with_the_reason(answering, tmp_path):
    async with answering(tmp_path, token=says("yes"), is_paced=True) as rig:
        asking = asyncio.create_task(chat(rig, stream=True, max_tokens=3))
        await submitted(rig)
        for _ in range(3):
            rig.engine.step()
        choices = [event["choices"][0] for event in (await asking).events]
    first, *middle, last = [choice["delta"] for choice in choices]
    assert (first, last) == ({"role": "assistant", "content": ""}, {})
    assert "".join(delta["content"] for delta in middle) == "yes"
    assert choices[-1]["finish_reason"] == "length"


@on_loop
async def test_stream_ends_with_its_usage_where_asked(answering, tmp_path):
    async with answering(tmp_path) as rig:
        *chunks, last = (await complete(rig, stream=True, stream_options={"include_usage": True})).events
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 9)
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)


@on_loop
async def test_tokens_are_sent_as_they_come(answering, tmp_path):
    async with answering(tmp_path, is_paced=True) as rig:
        reader, writer = await opened(rig, stream=True)
        await submitted(rig)
        rig.engine.step()
        assert b'"finish_reason":null' in await reader.readuntil(b"}\n\n")
        await leave(writer)


@on_loop
async def test_log_probabilities_of_a_completion(answering, tmp_path):
    async with answering(tmp_path, token=says("ab")) as rig:
        reply = await complete(rig, max_tokens=2, logprobs=1)
        bare = await complete(rig, max_tokens=2, logprobs=0)
    assert reply.json["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"\0": -1.0, "a": -0.5}, {"\0": -1.0, "b": -0.5}],
        "text_offset": [0, 1],
    }
    assert bare.json["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -0.5}, {"b": -0.5}]


@on_loop
async def test_offsets_of_a_stream_go_on_from_chunk_to_chunk(answering, tmp_path):
    async with answering(tmp_path, token=says("abc"), is_paced=True) as rig:
        asking = asyncio.create_task(complete(rig, stream=True, max_tokens=3, logprobs=0))
        await submitted(rig)
        for _ in range(3):
            rig.engine.step()
        logprobs = [event["choices"][0]["logprobs"] for event in (await asking).events]
    assert [offset for piece in logprobs if piece for offset in piece["text_offset"]] == [0, 1, 2]


@on_loop
async def test_log_probabilities_of_a_chat(answering, tmp_path):
    async with answering(tmp_path, token=says("é")) as rig:
        content = (await chat(rig, max_tokens=2, logprobs=True, top_logprobs=1)).json["choices"][0]["logprobs"][
            "content"
        ]
    top = {"token": "\0", "logprob": -1.0, "bytes": [0]}
    assert content == [{"token": "\ufffd", "logprob": -0.5, "bytes": None, "top_logprobs": [top]}] * 2


@on_loop
async def test_stop_string_ends_the_answer_exactly(answering, tmp_path):
    async with answering(tmp_path, token=says("one STOP two"), is_paced=True) as rig:
        asking = asyncio.create_task(complete(rig, max_tokens=12, stop="STOP"))
        request_id = await submitted(rig)
        for _ in range(10):
            rig.engine.step()
        await rig.called("finish", request_id)
        body = (await asking).json
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("one ", "stop")
    assert body["usage"]["completion_tokens"] == 8


@on_loop
async def test_sampling_reaches_the_engine(answering, tmp_path):
    asked = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": -1, "stop_token_ids": [9]}
    asked |= {"presence_penalty": 1.0, "frequency_penalty": -1.0, "repetition_penalty": 1.5, "ignore_eos": True}
    async with answering(tmp_path, is_paced=True) as rig:
        _, writer = await opened(rig, **asked)
        sampling = rig.engine.running[await submitted(rig)].request.sampling
        await leave(writer)
    got = {name: getattr(sampling, name) for name in asked}
    assert got == asked | {"seed": 2**64 - 1, "stop_token_ids": (9,)}


@on_loop
async def test_absent_temperature_is_openai_s(answering, tmp_path):
    async with answering(tmp_path, is_paced=True) as rig:
        _, writer = await opened(rig)
        assert rig.engine.running[await submitted(rig)].request.sampling.temperature == 1.0
        await leave(writer)


@pytest.mark.parametrize(("kv_page_tokens", "max_tokens"), [(16, 256 - 9), (1, 100 + 1 - 9)], ids=["context", "pages"])
@on_loop
async def test_chat_without_max_tokens_may_fill_what_context_and_pages_leave(
    answering, tmp_path, kv_page_tokens, max_tokens
):
    async with answering(tmp_path, is_paced=True, model=model_spec(256), kv_page_tokens=kv_page_tokens) as rig:
        asking = asyncio.create_task(chat(rig, "hi"))
        request_id = await submitted(rig)
        assert rig.engine.running[request_id].request.sampling.max_tokens == max_tokens
        rig.engine.fail(request_id, EngineFailure("enough"))
        await asking


@pytest.mark.parametrize("model", ["sql", "tiny:sql"])
@on_loop
async def test_model_names_an_adapter(answering, tmp_path, model):
    async with answering(tmp_path) as rig:
        await rig.load("sql")
        ours, _, _ = await answer(rig.inference.Generate(request(max_tokens=4, adapters=["sql"])))
        reply = await complete(rig, model=model)
    assert (reply.json["choices"][0]["text"], reply.json["model"]) == (ours, model)


@pytest.mark.parametrize("stream", [True, False])
@on_loop
async def test_leaving_cancels_the_request_in_the_engine(answering, tmp_path, stream):
    async with answering(tmp_path, is_paced=True) as rig:
        _, writer = await opened(rig, stream=stream)
        request_id = await submitted(rig)
        await leave(writer)
        await rig.called("cancel", request_id)
        assert not rig.engine.running
    labels = {"method": "HTTP/v1/completions", "code": "CANCELLED"}
    assert rig.registry.get_sample_value("lorajax:requests_total", labels) == 1


@on_loop
async def test_leaving_half_way_through_a_stream_cancels_it(answering, tmp_path):
    async with answering(tmp_path, is_paced=True) as rig:
        reader, writer = await opened(rig, stream=True)
        request_id = await submitted(rig)
        rig.engine.step()
        await reader.readuntil(b"}\n\n")
        await leave(writer)
        await rig.called("cancel", request_id)


@on_loop
async def test_a_reader_that_does_not_read_delays_nobody(answering, tmp_path):
    async with answering(tmp_path, model=model_spec(2**16)) as rig:
        _, writer = await opened(rig, stream=True, **MUCH)
        await submitted(rig)
        assert (await complete(rig)).status == 200
        assert rig.worker.drain() == 1
        await leave(writer)
        await rig.worker.run()


@on_loop
async def test_failure_before_the_first_token_is_a_status(answering, tmp_path):
    async with answering(tmp_path, is_paced=True) as rig:
        asking = asyncio.create_task(complete(rig, stream=True))
        rig.engine.fail(await submitted(rig), EngineFailure("secret"))
        reply = await asking
    assert (reply.status, reply.error["type"]) == (500, "server_error")
    assert "incident" in reply.error["message"]
    assert b"secret" not in reply.data


@on_loop
async def test_failure_after_the_first_token_is_the_last_event(answering, tmp_path):
    async with answering(tmp_path, is_paced=True) as rig:
        asking = asyncio.create_task(complete(rig, stream=True))
        request_id = await submitted(rig)
        rig.engine.step()
        rig.engine.fail(request_id, EngineFailure("secret"))
        reply = await asking
    assert reply.status == 200
    assert reply.data.endswith(b"\n\n")
    assert b'data: {"error":' in reply.data.split(b"\n\n")[-2]
    assert b"[DONE]" not in reply.data


@pytest.mark.parametrize("options", [{"enable_thinking": False}, {"enable_thinking": True}, {}, None])
def test_chat_template_is_told_to_think_as_vllm_s_clients_say_it(options):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": options}
    prompt = chat_query(json.dumps(body).encode(), "tiny").call.prompt
    assert prompt.enable_thinking is (options or {}).get("enable_thinking")
