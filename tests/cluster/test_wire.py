"""Records from and to protobuf, and errors to statuses."""

import inspect

import grpc
import pytest
from google.rpc import error_details_pb2

from cluster import serving_pb2 as pb
from cluster import wire
from cluster.calls import request_of
from lorajax import errors
from lorajax.errors import LorajaxError
from lorajax.spec import Sampling, Version

STATUS = {
    errors.BadRequest: "INVALID_ARGUMENT",
    errors.MalformedAdapter: "INVALID_ARGUMENT",
    errors.UnsupportedModel: "FAILED_PRECONDITION",
    errors.UnsupportedAdapter: "FAILED_PRECONDITION",
    errors.AdapterInUse: "FAILED_PRECONDITION",
    errors.CorruptAdapter: "DATA_LOSS",
    errors.UnknownAdapter: "NOT_FOUND",
    errors.AdapterExists: "ALREADY_EXISTS",
    errors.DuplicateRequest: "ALREADY_EXISTS",
    errors.NeedsCluster: "UNIMPLEMENTED",
    errors.Overloaded: "RESOURCE_EXHAUSTED",
    errors.Unavailable: "UNAVAILABLE",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
}
OURS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LorajaxError)]


def call(**fields):
    return wire.call_from_proto(pb.GenerateRequest(text="hi", **fields))


def test_absent_fields_keep_the_record_s_defaults():
    assert call(sampling=pb.Sampling(max_tokens=3)).sampling == Sampling(max_tokens=3)


def test_every_field_reaches_the_record():
    values = {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 9,
        "min_p": 0.125,
        "seed": 2**64 - 1,
        "stop": ("a", "b"),
        "stop_token_ids": (1, 2),
        "repetition_penalty": 1.5,
        "presence_penalty": -1.0,
        "frequency_penalty": 1.0,
        "ignore_eos": True,
        "logprobs": 0,
    }
    assert call(sampling=pb.Sampling(**values)).sampling == Sampling(**values)


def test_absent_weight_is_one_and_zero_is_zero():
    uses = [pb.AdapterUse(name="a"), pb.AdapterUse(name="b", weight=0.0), pb.AdapterUse(name="", weight=3.0)]
    assert call(adapters=uses, sampling=pb.Sampling(max_tokens=1)).adapters == (("a", 1.0), ("b", 0.0))


def test_one_adapter_twice_is_refused():
    twice = call(adapters=[pb.AdapterUse(name="a")] * 2, sampling=pb.Sampling(max_tokens=1))
    with pytest.raises(errors.BadRequest, match="twice") as caught:
        request_of(twice, "r1", (1,), (Version("v"), Version("v")), None)
    assert caught.value.field == "adapters"


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_each_error_has_its_status(kind):
    assert wire.verdict_of(kind("words"), "i1").code.name == STATUS.get(kind, "INTERNAL")


@pytest.mark.parametrize("error", [RuntimeError("secret"), ValueError("secret"), errors.EngineFailure("secret")])
def test_text_of_a_bug_is_not_shown(error):
    status = wire.status_of(wire.verdict_of(error, "i1"))
    assert status.code is grpc.StatusCode.INTERNAL
    assert "i1" in status.details
    assert "secret" not in repr(status)


def test_status_of_a_long_error_fits_into_grpc_s_metadata():
    status = wire.status_of(wire.verdict_of(errors.BadRequest("é\n" * 10_000, "field"), "i1"))
    assert "\n" not in status.details
    assert sum(len(value) for _, value in status.trailing_metadata) + 3 * len(status.details.encode()) < 8192


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.Unavailable])
def test_passing_troubles_say_when_to_try_again(kind):
    metadata = dict(wire.status_of(wire.verdict_of(kind("later", retry_s=1.5), "i1")).trailing_metadata)
    assert metadata["grpc-retry-pushback-ms"] == "1500"
    assert error_details_pb2.RetryInfo.DESCRIPTOR.full_name.encode() in metadata["grpc-status-details-bin"]


@pytest.mark.parametrize("thinks", [None, True, False])
def test_chat_says_whether_to_think_only_where_its_caller_does(thinks):
    fields = {} if thinks is None else {"enable_thinking": thinks}
    chat = pb.Chat(messages=[pb.Message(role="user", content="hi")], **fields)
    message = pb.GenerateRequest(chat=chat, sampling=pb.Sampling(max_tokens=1))
    assert wire.call_from_proto(message).prompt.enable_thinking is thinks
