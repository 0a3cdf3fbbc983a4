"""Our records to OpenAI's JSON, and verdicts to HTTP. Owns: the shape of answers, and which status is which HTTP code.

Does not: read bodies (cluster/openai_query.py does) or send anything (cluster/http_front.py does).
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import grpc

from cluster.calls import Completion, Shown
from cluster.openai_query import Query
from cluster.wire import Verdict

type Json = dict[str, object]

HTTP_CODE: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""DATA_LOSS, INTERNAL and whatever comes later are 500."""
_FIELDS = {"text": "prompt", "token_ids.ids": "prompt", "adapters": "model", "name": "lora_name", "path": "lora_path"}
"""A field of ours, by its path in gRPC, as OpenAI or vLLM call it; others only lose their first part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes one answer as OpenAI does, whole or in chunks."""

    query: Query
    id: str
    created: int
    """Unix time, in s."""
    token_text: Callable[[int], str]

    def whole(self, shown: Shown, completion: Completion) -> Json:
        """The answer in one piece."""
        text = "".join(text for _, text in shown)
        content: Json = {"message": {"role": "assistant", "content": text}} if self.query.is_chat else {"text": text}
        choice = self._choice(content, self._logprobs(shown, 0), completion.reason.value)
        return self._object([choice], is_chunk=False) | {"usage": _usage(completion)}

    def begin(self) -> list[Json]:
        """The chunks before the first token."""
        if not self.query.is_chat:
            return []
        return [self._object([self._choice({"delta": {"role": "assistant", "content": ""}})])]

    def chunk(self, shown: Shown, num_chars: int) -> list[Json]:
        """Tokens, `num_chars` of text after the start; no chunk where there is nothing to tell."""
        text, logprobs = "".join(text for _, text in shown), self._logprobs(shown, num_chars)
        if not text and logprobs is None:
            return []
        content: Json = {"delta": {"content": text}} if self.query.is_chat else {"text": text}
        return [self._object([self._choice(content, logprobs)])]

    def end(self, completion: Completion) -> list[Json]:
        """The chunks after the last token."""
        content: Json = {"delta": {}} if self.query.is_chat else {"text": ""}
        chunks = [self._object([self._choice(content, None, completion.reason.value)])]
        if self.query.has_usage:
            chunks.append(self._object([]) | {"usage": _usage(completion)})
        return chunks

    def _object(self, choices: list[Json], *, is_chunk: bool = True) -> Json:
        kind = ("chat.completion.chunk" if is_chunk else "chat.completion") if self.query.is_chat else "text_completion"
        head: Json = {"id": self.id, "object": kind, "created": self.created, "model": self.query.model}
        return head | {"choices": choices} | ({"usage": None} if self.query.has_usage else {})

    def _choice(self, content: Json, logprobs: Json | None = None, reason: str | None = None) -> Json:
        return {"index": 0, **content, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, shown: Shown, num_chars: int) -> Json | None:
        if self.query.call.sampling.logprobs is None:
            return None
        return self._chat_logprobs(shown) if self.query.is_chat else self._text_logprobs(shown, num_chars)

    def _chat_logprobs(self, shown: Shown) -> Json:
        return {
            "content": [
                self._alternative(token.id, token.logprob)
                | {"top_logprobs": [self._alternative(*alternative) for alternative in token.top]}
                for token, _ in shown
            ]
        }

    def _alternative(self, id: int, logprob: float | None) -> Json:
        text = self.token_text(id)
        # Part of a character has no text of its own.
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    def _text_logprobs(self, shown: Shown, num_chars: int) -> Json:
        offsets = []
        for _, text in shown:
            offsets.append(num_chars)
            num_chars += len(text)
        tokens = [token for token, _ in shown]
        return {
            "tokens": [self.token_text(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {self.token_text(id): logprob for id, logprob in (*token.top, (token.id, token.logprob))}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _usage(completion: Completion) -> Json:
    prompt, completed = completion.num_prompt_tokens, completion.num_completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed}


def models(base_model: str, max_model_len: int, adapters: Iterable[tuple[str, str]], created: int) -> Json:
    """The base and every adapter by (name, source), as /v1/models lists them."""
    card: Json = {"object": "model", "created": created, "owned_by": "lorajax", "max_model_len": max_model_len}
    base = card | {"id": base_model, "root": base_model, "parent": None}
    others = (card | {"id": name, "root": source, "parent": base_model} for name, source in adapters)
    return {"object": "list", "data": [base, *others]}


def http_code(verdict: Verdict) -> int:
    """The HTTP code of a verdict."""
    return HTTP_CODE.get(verdict.code, 500)


def retry_after(verdict: Verdict) -> dict[str, str]:
    """The header that says when to come back, in whole seconds, where that is known."""
    return {} if verdict.retry_s is None else {"retry-after": str(math.ceil(verdict.retry_s))}


def error_of_verdict(verdict: Verdict) -> Json:
    """OpenAI's error object; its `code` is the name of gRPC's status."""
    return error_of(http_code(verdict), verdict.message, verdict.code.name.lower(), _param(verdict.field))


def error_of(status: int, message: str, code: str, param: str | None = None) -> Json:
    """OpenAI's error object."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _param(field: str) -> str | None:
    return _FIELDS.get(field) or re.sub(r"^(sampling|chat)\.", "", field) or None
