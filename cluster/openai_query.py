"""OpenAI's and vLLM's JSON bodies to our records. Owns: which fields a body may have, and what an absent one means.

Does not: look anything up, serve (cluster/http_front.py does), write JSON (cluster/openai_reply.py), or check ranges
(lorajax/spec.py does).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from cluster.calls import Call, Chat, Prompt, sampling_of
from lorajax.errors import BadRequest

# JSON knows no sizes: what is beyond these is refused before Python makes an integer of any length out of it.
_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

_Nothing = Annotated[list[object], msgspec.Meta(max_length=0)] | None
_DEFAULT_MAX_TOKENS = 16  # OpenAI's, of /v1/completions
_DEFAULT_TEMPERATURE = 1.0  # OpenAI's; gRPC's own default is greedy
_ONLY: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    # From here on vLLM's.
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
"""Fields that are taken with these values alone, which change nothing: clients write their defaults out."""
_SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("ignore_eos", "stop_token_ids"),
)


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream carries beside its tokens."""

    include_usage: bool = False
    continuous_usage_stats: Literal[False] = False  # vLLM's


class _Asked(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of completion may ask. A base class is msgspec's way to share fields."""

    model: str
    max_tokens: _Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: _Int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: _Int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    """Taken and not used, as the next: nothing here is kept by user."""
    metadata: object = None
    response_format: object = None
    store: object = None
    service_tier: object = None
    # From here on not OpenAI's but vLLM's.
    top_k: _Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[_TokenId] | None = None
    ignore_eos: bool | None = None
    min_tokens: object = None
    skip_special_tokens: object = None
    include_stop_str_in_output: object = None


class CompletionBody(_Asked, kw_only=True):
    """A body of /v1/completions."""

    prompt: str | list[str | _TokenId | list[_TokenId]]
    logprobs: _Int | None = None
    best_of: _Int | None = None
    echo: bool | None = None
    suffix: str | None = None
    add_special_tokens: object = None


class TextPart(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of a message's content."""

    text: str


class TemplateOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What a chat template is told: vLLM's field, of which only this one is known."""

    enable_thinking: bool | None = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: str
    content: str | list[TextPart]
    # What answers have and clients send back; taken where nothing is in it.
    name: _Nothing = None
    refusal: _Nothing = None
    annotations: _Nothing = None
    audio: _Nothing = None
    function_call: _Nothing = None
    tool_calls: _Nothing = None
    tool_call_id: _Nothing = None
    reasoning: _Nothing = None
    reasoning_content: _Nothing = None


class ChatBody(_Asked, kw_only=True):
    """A body of /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: _Int | None = None
    logprobs: bool | None = None
    top_logprobs: _Int | None = None
    tools: object = None
    tool_choice: object = None
    parallel_tool_calls: object = None
    """Taken and not used: there are no tools."""
    functions: object = None
    function_call: object = None
    add_generation_prompt: object = None
    continue_final_message: object = None
    chat_template_kwargs: TemplateOptions | None = None


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """A body of /v1/load_lora_adapter, as vLLM takes it."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    """Replace what the name stands for."""


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True):
    """A body of /v1/unload_lora_adapter, as vLLM takes it, and `force`, which is ours."""

    lora_name: str
    lora_int_id: _Int | None = None
    """Taken and not used: names are enough."""
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One completion to be made, and how its answer is to be written."""

    call: Call
    model: str
    """As the caller wrote it."""
    is_chat: bool
    is_stream: bool
    has_usage: bool
    """Whether a stream ends with its usage."""


def parsed[Body](kind: type[Body], data: bytes) -> Body:
    """A body of that kind. Raises BadRequest, naming the field, for all that it is not."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        words = str(error)
        where = re.search(r"at `\$\.?([^`]*)`$", words)
        name = re.search(r"field `([^`]*)`", words)
        path = [match[1] for match in (where, name) if match is not None and match[1]]
        raise BadRequest(f"the body cannot be read: {words}", ".".join(path)) from error


def completion_query(data: bytes, base_model: str) -> Query:
    """What a body of /v1/completions asks. Raises BadRequest."""
    body = parsed(CompletionBody, data)
    max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return _query(body, _prompt(body.prompt), max_tokens, body.logprobs, base_model)


def chat_query(data: bytes, base_model: str) -> Query:
    """What a body of /v1/chat/completions asks. Raises BadRequest."""
    body = parsed(ChatBody, data)
    if not body.messages:
        raise BadRequest("the chat has no messages; send at least one", "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    prompt = Chat(
        messages=tuple((message.role, _text(message.content)) for message in body.messages),
        enable_thinking=None if body.chat_template_kwargs is None else body.chat_template_kwargs.enable_thinking,
    )
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return _query(body, prompt, max_tokens, (body.top_logprobs or 0) if body.logprobs else None, base_model)


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _prompt(prompt: str | Sequence[str | int | list[int]]) -> Prompt:
    """One text, or the ids of one; OpenAI also lists several prompts."""
    if not prompt:
        raise BadRequest("the prompt is empty; send at least one token", "prompt")
    match prompt:
        case str(text) | [str(text)] if text:
            return text
        case [[*ids]] if ids:
            return tuple(ids)
        case [*ids] if len(numbers := tuple(id for id in ids if isinstance(id, int))) == len(ids):
            return numbers
    raise BadRequest("prompt must be one text, or the token ids of one; send several prompts one by one", "prompt")


def _query(
    body: CompletionBody | ChatBody, prompt: Prompt, max_tokens: int | None, logprobs: int | None, base_model: str
) -> Query:
    for name, only in _ONLY.items():
        # The two kinds of body do not have all of them.
        if (value := getattr(body, name, None)) is not None and value not in only:
            raise BadRequest(f"{name} is {value!r:.40}; only {' or '.join(map(repr, only))} can be served", name)
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options needs stream to be true", "stream_options")
    values = {name: value for name in _SAMPLING_FIELDS if (value := getattr(body, name)) is not None}
    if "stop_token_ids" in values:
        values["stop_token_ids"] = tuple(values["stop_token_ids"])
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if values.get("top_k") == -1:  # vLLM's other way to keep every token
        del values["top_k"]
    seed = None if body.seed is None else body.seed % 2**64  # OpenAI's seeds have a sign
    sampling = {"temperature": _DEFAULT_TEMPERATURE} | values | {"stop": stop, "seed": seed, "logprobs": logprobs}
    return Query(
        call=Call(
            request_id="",
            prompt=prompt,
            adapters=adapters_of(body.model, base_model),
            sampling=sampling_of({"max_tokens": 1 if max_tokens is None else max_tokens} | sampling),
            fills_context=max_tokens is None,
        ),
        model=body.model,
        is_chat=isinstance(body, ChatBody),
        is_stream=bool(body.stream),
        has_usage=body.stream_options is not None and body.stream_options.include_usage,
    )


def adapters_of(model: str, base_model: str) -> tuple[tuple[str, float], ...]:
    """The adapters that `model` names: none for the base, one for an adapter's name or `base:adapter`."""
    if model == base_model:
        return ()
    prefix, _, name = model.rpartition(":")
    return ((name if prefix == base_model else model, 1.0),)
