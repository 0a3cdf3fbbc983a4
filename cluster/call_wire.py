"""Calls to protobuf, and replies back to records: what a process needs that asks for others.

Does not: check (cluster/wire.py does, which is the way into a server) or send.
"""

from collections.abc import Iterator
from dataclasses import fields

from cluster import serving_pb2
from cluster.calls import Call, Chat, Completion, Shown
from lorajax.spec import FinishReason, Timing, Token, Version


def call_to_proto(call: Call) -> serving_pb2.GenerateRequest:
    """The message that `wire.call_from_proto` reads as this call."""
    message = serving_pb2.GenerateRequest(
        request_id=call.request_id,
        adapters=[serving_pb2.AdapterUse(name=name, weight=weight) for name, weight in call.adapters],
        # The record and the message have the same field names; None is absent.
        sampling=serving_pb2.Sampling(
            **{field.name: getattr(call.sampling, field.name) for field in fields(call.sampling)}
        ),
        priority=call.priority,
        fills_context=call.fills_context,
    )
    match call.prompt:
        case tuple(ids):
            message.token_ids.ids.extend(ids)
        case str(text):
            message.text = text
        case Chat(messages=messages, enable_thinking=enable_thinking):
            for role, content in messages:
                message.chat.messages.add(role=role, content=content)
            if enable_thinking is not None:
                message.chat.enable_thinking = enable_thinking
    return message


def parts_of(reply: serving_pb2.GenerateReply) -> Iterator[Shown | Completion]:
    """What one message of an answer holds."""
    if reply.tokens:
        yield [(_token(token), token.text) for token in reply.tokens]
    if reply.HasField("final"):
        yield _completion(reply.final)


def _token(token: serving_pb2.Token) -> Token:
    return Token(
        id=token.id,
        logprob=token.logprob if token.HasField("logprob") else None,
        top=tuple((top.id, top.logprob) for top in token.top),
    )


def _completion(final: serving_pb2.Final) -> Completion:
    timing = {field.name: getattr(final.timing, field.name) for field in fields(Timing)}
    return Completion(
        request_id=final.request_id,
        reason=FinishReason(final.finish_reason),
        num_prompt_tokens=final.usage.prompt_tokens,
        num_completion_tokens=final.usage.completion_tokens,
        timing=Timing(**timing),
        versions=tuple(Version(version) for version in final.adapter_versions),
        host=final.host,
    )
