"""What is sent to another process is what it reads, and what it answers is what was written."""

import pytest

from cluster import serving_pb2 as pb
from cluster import wire
from cluster.call_wire import call_to_proto, parts_of
from cluster.calls import Call, Chat, Completion
from lorajax.spec import FinishReason, Sampling, Timing, Token, Version

SAMPLING = Sampling(
    max_tokens=7,
    temperature=0.5,
    top_p=0.25,
    top_k=3,
    min_p=0.125,
    seed=9,
    stop=("a", "b"),
    stop_token_ids=(4, 5),
    repetition_penalty=1.5,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
    ignore_eos=True,
    logprobs=2,
)


@pytest.mark.parametrize(
    "prompt", ["hello", (1, 2), Chat(messages=(("user", "hi"),)), Chat(messages=(("a", "b"),), enable_thinking=False)]
)
@pytest.mark.parametrize("sampling", [SAMPLING, Sampling(max_tokens=1)], ids=["every field", "defaults"])
def test_call_is_read_as_it_was_sent(prompt, sampling):
    call = Call(
        request_id="r1",
        prompt=prompt,
        adapters=(("sql", 0.5), ("terse", 1.0)),
        sampling=sampling,
        fills_context=True,
        priority=3,
    )
    sent = pb.GenerateRequest.FromString(call_to_proto(call).SerializeToString())
    assert wire.call_from_proto(sent) == call


def test_tokens_are_read_as_they_were_written():
    shown = [(Token(id=3, logprob=-0.5, top=((4, -1.0),)), "x"), (Token(id=5), "")]
    assert list(parts_of(wire.reply_to_proto(shown))) == [shown]


def test_end_is_read_as_it_was_written():
    end = Completion(
        request_id="r1",
        reason=FinishReason.STOP,
        num_prompt_tokens=2,
        num_completion_tokens=3,
        timing=Timing(queue_s=1.0, adapter_wait_s=2.0, prefill_s=3.0, first_token_s=4.0, total_s=5.0),
        versions=(Version("ab" * 32),),
        host="h0",
    )
    assert list(parts_of(wire.reply_to_proto(end))) == [end]
