"""Generate over loopback: what an answer looks like, and how it ends."""

import asyncio

import grpc
import pytest

from cluster import serving_pb2 as pb
from cluster.serving_pb2_grpc import InferenceStub
from lorajax.errors import EngineFailure
from tests.cluster.rig import answer, on_loop, refusal, request, serving
from tests.fakes import TIMING, model_spec, says

MUCH = {"max_tokens": 3000, "logprobs": 20}
"""An answer ten times as large as what a narrow channel takes without a reader."""


def narrow_channel(rig):
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 2**16))
    return grpc.aio.insecure_channel(rig.target, options=options)


@on_loop
async def test_answer_has_text_usage_timing_and_host(tmp_path):
    async with serving(tmp_path, token=says("yes")) as rig:
        text, tokens, final = await answer(rig.inference.Generate(request("hello", 3, request_id="r1")))
    assert (text, [token.id for token in tokens]) == ("yes", list(b"yes"))
    assert (final.finish_reason, final.host, final.request_id) == ("length", "h0", "r1")
    assert (final.usage.prompt_tokens, final.usage.completion_tokens, final.timing.total_s) == (5, 3, 5.0)


@on_loop
async def test_text_ids_and_chat_of_the_same_prompt_get_the_same_answer(tmp_path):
    async with serving(tmp_path) as rig:
        ids = pb.TokenIds(ids=list(b"user: hi\n"))
        chat = pb.Chat(messages=[pb.Message(role="user", content="hi")])
        prompts = ({"text": "user: hi\n"}, {"token_ids": ids}, {"chat": chat})
        texts = [(await answer(rig.inference.Generate(request(**prompt))))[0] for prompt in prompts]
    assert len(set(texts)) == 1


@on_loop
async def test_server_makes_a_request_id_where_there_is_none(tmp_path):
    async with serving(tmp_path) as rig:
        finals = [(await answer(rig.inference.Generate(request())))[2] for _ in range(2)]
    assert len({final.request_id for final in finals} - {""}) == 2


@on_loop
async def test_logprobs_are_reported_only_where_asked_for(tmp_path):
    async with serving(tmp_path) as rig:
        _, plain, _ = await answer(rig.inference.Generate(request(sampling={"max_tokens": 1})))
        _, asked, _ = await answer(rig.inference.Generate(request(sampling={"max_tokens": 1, "logprobs": 2})))
    assert not plain[0].HasField("logprob")
    assert (asked[0].logprob, [top.id for top in asked[0].top]) == (-0.5, [0, 1])


@on_loop
async def test_a_character_of_several_tokens_is_never_split(tmp_path):
    async with serving(tmp_path, token=says("aé日")) as rig:
        text, tokens, _ = await answer(rig.inference.Generate(request(max_tokens=6)))
    assert text == "aé日"
    assert all("\ufffd" not in token.text for token in tokens)


@on_loop
async def test_text_held_back_at_the_end_is_not_lost(tmp_path):
    async with serving(tmp_path, token=says("so ST")) as rig:
        sampling = {"max_tokens": 9, "stop": ["STOP"]}
        text, _, final = await answer(rig.inference.Generate(request(sampling=sampling)))
    assert (text, final.finish_reason) == ("so ST", "stop")


@on_loop
async def test_stop_string_cuts_the_text_and_ends_the_request_in_the_engine(tmp_path):
    async with serving(tmp_path, token=says("one STOP two"), is_paced=True) as rig:
        sampling = {"max_tokens": 12, "stop": ["STOP"]}
        reading = asyncio.create_task(answer(rig.inference.Generate(request(request_id="r1", sampling=sampling))))
        await rig.called("submit", "r1")
        for _ in range(10):
            rig.engine.step()
        await rig.called("finish", "r1")
        text, _, final = await reading
    assert (text, final.finish_reason, final.usage.completion_tokens) == ("one ", "stop", 8)
    assert final.timing.total_s == TIMING.total_s


@on_loop
async def test_events_may_come_from_another_thread(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        reading = asyncio.create_task(answer(rig.inference.Generate(request(request_id="r1"))))
        await rig.called("submit", "r1")
        for _ in range(4):
            await asyncio.to_thread(rig.engine.step)
        _, tokens, _ = await reading
    assert len(tokens) == 4


@on_loop
async def test_an_id_may_be_used_again_afterwards(tmp_path):
    async with serving(tmp_path) as rig:
        for _ in range(2):
            await answer(rig.inference.Generate(request(request_id="r1")))


@on_loop
async def test_empty_adapter_name_is_the_base_model(tmp_path):
    async with serving(tmp_path) as rig:
        texts = [(await answer(rig.inference.Generate(request(adapters=names))))[0] for names in ([], [""])]
    assert texts[0] == texts[1]


@on_loop
async def test_weights_reach_the_engine(tmp_path):
    async with serving(tmp_path) as rig:
        version = (await rig.load("sql")).version
        texts = []
        for weight in (1.0, 0.5):
            message = request(max_tokens=16)
            message.adapters.add(name="sql", weight=weight)
            text, _, final = await answer(rig.inference.Generate(message))
            texts.append(text)
            assert list(final.adapter_versions) == [version]
        same, _, _ = await answer(rig.inference.Generate(request(max_tokens=16, adapters=["sql"])))
    assert texts[0] == same != texts[1]


@on_loop
async def test_leaving_a_stream_cancels_it_in_the_engine(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        stream = rig.inference.Generate(request(request_id="r1"))
        await rig.called("submit", "r1")
        stream.cancel()
        await rig.called("cancel", "r1")
        assert not rig.engine.running


@on_loop
async def test_closing_the_channel_cancels_its_streams_in_the_engine(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        stream = rig.inference.Generate(request(request_id="r1"))
        await rig.called("submit", "r1")
        await rig.channel.close()
        await rig.called("cancel", "r1")
        assert stream.done()


@on_loop
async def test_deadline_reaches_the_engine_and_ends_the_stream(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        reading = asyncio.create_task(refusal(rig.inference.Generate(request(request_id="r1"), timeout=1.0)))
        await rig.called("submit", "r1")
        assert rig.engine.running["r1"].request.deadline_s is not None
        assert (await reading).code == "DEADLINE_EXCEEDED"
        await rig.called("cancel", "r1")


@on_loop
async def test_request_without_a_deadline_has_none_in_the_engine(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        stream = rig.inference.Generate(request(request_id="r1"))
        await rig.called("submit", "r1")
        assert rig.engine.running["r1"].request.deadline_s is None
        stream.cancel()


@on_loop
async def test_tokens_before_a_failure_are_delivered(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        stream = rig.inference.Generate(request(request_id="r1"))
        await rig.called("submit", "r1")
        rig.engine.step()
        rig.engine.fail("r1", EngineFailure("device lost"))
        assert len((await stream.read()).tokens) == 1
        with pytest.raises(grpc.aio.AioRpcError, match="incident"):
            await stream.read()


@on_loop
async def test_a_reader_that_does_not_read_delays_nobody_and_loses_nothing(tmp_path):
    async with serving(tmp_path, model=model_spec(2**16)) as rig, narrow_channel(rig) as channel:
        slow = InferenceStub(channel).Generate(request(request_id="slow", sampling=MUCH))
        await rig.called("submit", "slow")
        await answer(rig.inference.Generate(request()))
        num_running = rig.worker.drain()
        _, tokens, final = await answer(slow)
    assert (num_running, len(tokens), final.usage.completion_tokens) == (1, 3000, 3000)


@on_loop
async def test_a_reader_that_leaves_while_its_answer_is_written_is_no_incident(tmp_path, caplog):
    async with serving(tmp_path, model=model_spec(2**16)) as rig:
        async with narrow_channel(rig) as channel:
            slow = InferenceStub(channel).Generate(request(request_id="slow", sampling=MUCH))
            await rig.called("submit", "slow")
            await answer(rig.inference.Generate(request()))
            slow.cancel()
        rig.worker.drain()
        await rig.worker.run()
    assert not caplog.records
    labels = {"method": "Inference/Generate", "code": "CANCELLED"}
    assert rig.registry.get_sample_value("lorajax:requests_total", labels) == 1
