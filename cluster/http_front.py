"""HTTP as OpenAI and vLLM speak it, before whatever answers. Owns: which path asks for what.

Does not: read or write JSON (openai_query.py, openai_reply.py), serve HTTP (http_server.py), or answer requests: one
host does (http_host.py), or the front door of many (http_gateway.py). Imported only where HTTP is asked for.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from cluster import openai_query, openai_reply
from cluster.calls import Call, Completion, Shown
from cluster.http_server import Handler, HttpLimits, HttpServer, Response
from cluster.metrics import Metrics
from cluster.openai_query import LoadBody, Query, UnloadBody
from cluster.openai_reply import Writer
from cluster.worker_inference import MAX_BYTES_PER_TOKEN
from lorajax.errors import BadRequest, UnknownAdapter

_MIN_BODY_BYTES = 2**20
_JSON_BYTES_PER_BYTE = 6
"""JSON may write one byte of a text as six."""
_OTHER_CONNECTIONS = 64
"""Room for idle ones, so that health and metrics are answered while all streams are taken."""

type Write = Callable[[Shown | Completion], Awaitable[None]]
"""Takes tokens as they come, then one Completion; returns once more may come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served, and how much of it at once."""

    model_name: str
    max_model_len: int
    max_streams: int
    token_text: Callable[[int], str]
    """One token on its own; part of a character shows as U+FFFD."""


class Services(Protocol):
    """What answers; every method raises LorajaxErrors."""

    def require_serving(self) -> None:
        """Raise Unavailable unless requests are taken."""

    def require(self, name: str) -> None:
        """Raise UnknownAdapter unless the name stands for an adapter."""

    def adapters(self) -> Iterable[tuple[str, str]]:
        """(name, source) of every adapter, by name."""

    async def answer(self, call: Call, write: Write) -> None:
        """Return once `write` has had the whole answer; cancelled, it cancels the request."""

    async def load(self, name: str, path: str, *, replace: bool) -> None:
        """Register a folder below an adapter root."""

    async def unload(self, name: str, *, force: bool) -> None:
        """Take a name away; requests that run on it finish."""


def http_front(address: str, served: Served, services: Services, metrics: Metrics) -> HttpServer:
    """A server on `address` before these services; it shows `metrics`, and counts its calls there."""
    handlers = _Handlers(served, services, metrics)
    limits = HttpLimits(
        max_body=max(_MIN_BODY_BYTES, _JSON_BYTES_PER_BYTE * MAX_BYTES_PER_TOKEN * served.max_model_len),
        max_connections=2 * served.max_streams + _OTHER_CONNECTIONS,
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
    return HttpServer(address, routes, metrics, limits)


def _readable(handler: Handler) -> dict[str, Handler]:
    return {"GET": handler, "HEAD": handler}


class _Handlers:
    """One method a path: the body in, the response out; what it raises becomes the response."""

    def __init__(self, served: Served, services: Services, metrics: Metrics) -> None:
        self._served = served
        self._services = services
        self._metrics = metrics
        self._started = int(time.time())

    async def completions(self, body: bytes, response: Response) -> None:
        """One completion of a text or of token ids."""
        await self._complete(openai_query.completion_query(body, self._served.model_name), response)

    async def chat_completions(self, body: bytes, response: Response) -> None:
        """The next turn of a conversation."""
        await self._complete(openai_query.chat_query(body, self._served.model_name), response)

    async def models(self, body: bytes, response: Response) -> None:
        """The base and the adapters."""
        name, max_model_len = self._served.model_name, self._served.max_model_len
        await response.json(200, openai_reply.models(name, max_model_len, self._services.adapters(), self._started))

    async def load(self, body: bytes, response: Response) -> None:
        """Register a folder below an adapter root."""
        asked = openai_query.parsed(LoadBody, body)
        if asked.lora_name == self._served.model_name:
            raise BadRequest(f"{asked.lora_name!r} is the base model's own name; choose another", "lora_name")
        await self._services.load(asked.lora_name, asked.lora_path, replace=asked.load_inplace)
        await _say(response, f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def unload(self, body: bytes, response: Response) -> None:
        """Take a name away; requests that run on it finish."""
        asked = openai_query.parsed(UnloadBody, body)
        await self._services.unload(asked.lora_name, force=asked.force)
        await _say(response, f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")

    async def metrics(self, body: bytes, response: Response) -> None:
        """Everything that Prometheus collects."""
        await response.whole(200, self._metrics.text(), {"content-type": CONTENT_TYPE_LATEST})

    async def health(self, body: bytes, response: Response) -> None:
        """Whether requests are taken."""
        self._services.require_serving()
        await response.json(200, {"status": "serving"})

    async def _complete(self, query: Query, response: Response) -> None:
        self._services.require_serving()
        self._check_model(query)
        call = replace(query.call, request_id=uuid.uuid4().hex)
        writer = Writer(
            query=query,
            id=f"{'chatcmpl' if query.is_chat else 'cmpl'}-{call.request_id}",
            created=int(time.time()),
            token_text=self._served.token_text,
        )
        answer = _Stream(writer, response) if query.is_stream else _Whole(writer, response)
        await self._services.answer(call, answer.write)

    def _check_model(self, query: Query) -> None:
        for name, _ in query.call.adapters:
            try:
                self._services.require(name)
            except UnknownAdapter as error:
                raise UnknownAdapter(f"{error}; the base model is {self._served.model_name!r}") from None


async def _say(response: Response, text: str) -> None:
    await response.whole(200, text.encode(), {"content-type": "text/plain; charset=utf-8"})


class _Whole:
    """An answer that is sent in one piece."""

    def __init__(self, writer: Writer, response: Response) -> None:
        self._writer = writer
        self._response = response
        self._shown: Shown = []

    async def write(self, part: Shown | Completion) -> None:
        """Keep the tokens; send all with the end."""
        if isinstance(part, Completion):
            await self._response.json(200, self._writer.whole(self._shown, part))
        else:
            self._shown += part


class _Stream:
    """An answer that is sent as it comes.

    Invariant: nothing is sent before the first part, so an error up to there has its own status.
    """

    def __init__(self, writer: Writer, response: Response) -> None:
        self._writer = writer
        self._response = response
        self._num_chars = 0
        self._begin = writer.begin()

    async def write(self, part: Shown | Completion) -> None:
        """Send what the part adds, and with the end that all is done."""
        if isinstance(part, Completion):
            chunks = self._writer.end(part)
        else:
            chunks = self._writer.chunk(part, self._num_chars)
            self._num_chars += sum(len(text) for _, text in part)
        for chunk in (*self._begin, *chunks):
            await self._response.event(msgspec.json.encode(chunk))
        self._begin = []
        if isinstance(part, Completion):
            await self._response.event(b"[DONE]")
            await self._response.end()
