"""HTTP before the services of one host, as OpenAI and vLLM speak it. Owns: which path asks which service for what.

Does not: read or write JSON (cluster/openai_query.py, openai_reply.py), serve HTTP (http_server.py), or answer requests
(cluster/worker_inference.py, worker_adapters.py). Only `--http` imports it.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from cluster import openai_query, openai_reply
from cluster.admission import Admission
from cluster.calls import Completion, Shown
from cluster.http_server import Handler, HttpLimits, HttpServer, Response
from cluster.openai_query import LoadBody, Query, UnloadBody
from cluster.openai_reply import Writer
from cluster.seams import Parts, WorkerConfig
from cluster.worker_adapters import Adapters
from cluster.worker_inference import MAX_BYTES_PER_TOKEN, Inference
from lorajax.errors import UnknownAdapter

_MIN_BODY_BYTES = 2**20
_JSON_BYTES_PER_BYTE = 6
"""JSON may write one byte of a text as six."""
_OTHER_CONNECTIONS = 64
"""Room for idle ones, so that health and metrics are answered while all streams are taken."""


def http_front(
    address: str, config: WorkerConfig, parts: Parts, admission: Admission, inference: Inference, adapters: Adapters
) -> HttpServer:
    """A server on `address` before these services of one host."""
    handlers = _Handlers(config, parts, admission, inference, adapters)
    prompt_bytes = MAX_BYTES_PER_TOKEN * config.model.max_model_len
    limits = HttpLimits(
        max_body=max(_MIN_BODY_BYTES, _JSON_BYTES_PER_BYTE * prompt_bytes),
        max_connections=2 * config.max_streams + _OTHER_CONNECTIONS,
    )
    routes: dict[str, dict[str, Handler]] = {
        "/v1/completions": {"POST": handlers.completions},
        "/v1/chat/completions": {"POST": handlers.chat_completions},
        "/v1/models": _readable(handlers.models),
        "/v1/load_lora_adapter": {"POST": handlers.load},
        "/v1/unload_lora_adapter": {"POST": handlers.unload},
        "/metrics": _readable(handlers.metrics),
        "/health": _readable(handlers.health),
    }
    return HttpServer(address, routes, parts.metrics, limits)


def _readable(handler: Handler) -> dict[str, Handler]:
    return {"GET": handler, "HEAD": handler}


class _Handlers:
    """One method a path: the body in, the response out; what it raises becomes the response."""

    def __init__(
        self, config: WorkerConfig, parts: Parts, admission: Admission, inference: Inference, adapters: Adapters
    ) -> None:
        self._config = config
        self._parts = parts
        self._admission = admission
        self._inference = inference
        self._adapters = adapters
        self._started = int(time.time())

    async def completions(self, body: bytes, response: Response) -> None:
        """One completion of a text or of token ids."""
        await self._complete(openai_query.completion_query(body, self._config.model_name), response)

    async def chat_completions(self, body: bytes, response: Response) -> None:
        """The next turn of a conversation."""
        await self._complete(openai_query.chat_query(body, self._config.model_name), response)

    async def models(self, body: bytes, response: Response) -> None:
        """The base and the adapters."""
        max_model_len, entries = self._config.model.max_model_len, self._parts.catalogue.entries()
        await response.json(200, openai_reply.models(self._config.model_name, max_model_len, entries, self._started))

    async def load(self, body: bytes, response: Response) -> None:
        """Register a folder below an adapter root."""
        asked = openai_query.parsed(LoadBody, body)
        await self._adapters.load_path(asked.lora_name, asked.lora_path, replace=asked.load_inplace)
        await _say(response, f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, body: bytes, response: Response) -> None:
        """Take a name away; requests that run on it finish."""
        asked = openai_query.parsed(UnloadBody, body)
        await self._adapters.unload(asked.lora_name, force=asked.force)
        await _say(response, f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    async def metrics(self, body: bytes, response: Response) -> None:
        """Everything that Prometheus collects."""
        await response.whole(200, self._parts.metrics.text(), {"content-type": CONTENT_TYPE_LATEST})

    async def health(self, body: bytes, response: Response) -> None:
        """Whether requests are taken."""
        self._admission.require_serving()
        await response.json(200, {"status": "serving"})

    async def _complete(self, query: Query, response: Response) -> None:
        self._admission.require_serving()
        self._check_model(query)
        call = replace(query.call, request_id=uuid.uuid4().hex)
        writer = Writer(
            query=query,
            id=f"{'chatcmpl' if query.is_chat else 'cmpl'}-{call.request_id}",
            created=int(time.time()),
            token_text=self._parts.tokenizer.token_text,
        )
        send = _stream if query.is_stream else _whole
        async with contextlib.aclosing(self._inference.answer(call)) as parts:
            await send(writer, parts, response)

    def _check_model(self, query: Query) -> None:
        for name, _ in query.call.adapters:
            try:
                self._parts.catalogue.entry(name)
            except UnknownAdapter as error:
                raise UnknownAdapter(f"{error}; the base model is {self._config.model_name!r}") from None


async def _say(response: Response, text: str) -> None:
    await response.whole(200, text.encode(), {"content-type": "text/plain; charset=utf-8"})


async def _whole(writer: Writer, parts: AsyncIterator[Shown | Completion], response: Response) -> None:
    shown: Shown = []
    async for part in parts:
        if isinstance(part, Completion):
            answer = writer.whole(shown, part)
        else:
            shown += part
    await response.json(200, answer)


async def _stream(writer: Writer, parts: AsyncIterator[Shown | Completion], response: Response) -> None:
    """Nothing is sent before the first part: an error up to there has its own status."""
    num_chars, begin = 0, writer.begin()
    async for part in parts:
        if isinstance(part, Completion):
            chunks = writer.end(part)
        else:
            chunks = writer.chunk(part, num_chars)
            num_chars += sum(len(text) for _, text in part)
        for chunk in (*begin, *chunks):
            await response.event(msgspec.json.encode(chunk))
        begin = []
    await response.event(b"[DONE]")
    await response.end()
