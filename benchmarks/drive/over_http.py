"""Any OpenAI-compatible server, over HTTP. Owns: what `/v1/completions` is asked, and what of its events counts.

vLLM, SGLang and our own HTTP front are asked alike: the adapter is the `model`, and `ignore_eos`, which is vLLM's,
makes answers as long as the workload wants. A message counts unless it only says that the answer is over: one without
text may be part of a character. An answer ends with `[DONE]`, however long its connection stays open.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from benchmarks.drive.http_client import ConnectionLost, HttpClient, Response
from benchmarks.drive.records import Call, CallFailed, Ending, Heard, Offer
from cluster.openai_reply import HTTP_CODE

type _Json = dict[str, Any]
"""Of a foreign server."""

_ADMIN_TIMEOUT_S = 30.0
_AFTERMATH_S = 0.02
"""How long what follows the last event is waited for: a connection that was read to its end can be used again."""
_STRANGE = (ValueError, LookupError, TypeError, AttributeError)
"""What comes of reading JSON of another shape."""
_CODE_OF = {status: code.name for code, status in HTTP_CODE.items()} | {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    408: "DEADLINE_EXCEEDED",
    422: "INVALID_ARGUMENT",
    499: "CANCELLED",
    502: "UNAVAILABLE",
}
_NAMES = {code.name for code in grpc.StatusCode}


class HttpServer:
    """The server at http://HOST:PORT; use as `async with HttpServer(url) as server`, and ask for its offer first."""

    def __init__(self, url: str, key: str = "") -> None:
        """Remember the address, and the key that the server wants, if any. Raises: ValueError if it is no address."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = HttpClient(url.rstrip("/").removesuffix("/v1"), headers)
        self._url = url
        self._base = ""
        self._prefix = ""
        """Before an adapter's name."""

    async def __aenter__(self) -> Self:
        """Nothing is opened yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._client.close()

    async def offer(self) -> Offer:
        """Its base model and adapters; it does not tell their ranks. Raises CallFailed."""
        try:
            async with asyncio.timeout(_ADMIN_TIMEOUT_S), self._client.request("GET", "/v1/models") as response:
                cards = _models(response, await _whole(response))
        except (ConnectionLost, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise CallFailed("UNAVAILABLE", f"nothing answers at {self._url}: {why}") from error
        base = next((card for card in cards if card.get("parent") is None), cards[0])
        self._base = base["id"]
        # SGLang takes an adapter's name behind that of the base; vLLM takes it alone, and ours takes both.
        self._prefix = f"{self._base}:" if base.get("owned_by") == "sglang" else ""
        ranks = {card["id"]: None for card in cards if card["id"] != self._base}
        return Offer(name=self._url, ranks=ranks, max_model_len=base.get("max_model_len"))

    async def generate(self, call: Call, heard: Heard) -> Ending:
        """Ask for a stream. Raises CallFailed."""
        try:
            async with (
                asyncio.timeout(call.timeout_s),
                self._client.request("POST", "/v1/completions", self._body(call)) as response,
            ):
                if response.status != 200:
                    raise _refused(response.status, await _whole(response))
                return await _read(response, heard)
        except ConnectionLost as error:
            raise CallFailed("UNAVAILABLE", str(error)) from error
        except _STRANGE as error:
            raise CallFailed("INTERNAL", f"an event that makes no sense: {type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise CallFailed("DEADLINE_EXCEEDED", f"no whole answer within {call.timeout_s:g} s") from error

    def _body(self, call: Call) -> bytes:
        body = {
            "model": self._prefix + call.adapter if call.adapter else self._base,
            "prompt": call.prompt,
            "max_tokens": call.max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(body).encode()


async def _read(response: Response, heard: Heard) -> Ending:
    usage: Mapping[str, int] = {}
    num_heard, has_reason = 0, False
    async for event in _events(response):
        if event.get("error"):
            raise _refused(500, json.dumps(event).encode())
        is_last = any(choice.get("finish_reason") for choice in event.get("choices") or ())
        if (choices := event.get("choices")) and (choices[0].get("text") or not is_last or not num_heard):
            num_heard += 1
            heard(1)
        has_reason = has_reason or is_last
        usage = event.get("usage") or usage
    if not num_heard:
        raise CallFailed("INTERNAL", "the stream ended without a token")
    # A body that lasts until the connection closes looks whole to HTTP wherever it breaks.
    if not (has_reason or usage):
        raise CallFailed("UNAVAILABLE", f"the stream broke off after {num_heard} messages, without a finish_reason")
    with contextlib.suppress(TimeoutError, ConnectionLost):
        async with asyncio.timeout(_AFTERMATH_S):
            await _whole(response)
    return Ending(prompt_tokens=_count(usage, "prompt_tokens"), output_tokens=_count(usage, "completion_tokens"))


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    found = usage.get(name)
    return None if found is None else int(found)


async def _events(response: Response) -> AsyncIterator[_Json]:
    """The JSON of each server-sent event, until the one that says that it was the last."""
    async for line in _lines(response.body):
        data = line.strip()
        if data.startswith(b"{"):  # no event: an error, or a whole answer at once
            event = json.loads(data)
            if event.get("choices"):
                raise CallFailed("UNIMPLEMENTED", "the server does not stream; have it answer with events")
            yield event
        data = data.removeprefix(b"data:").strip() if data.startswith(b"data:") else b""
        if data == b"[DONE]":
            return
        if data.startswith(b"{"):
            yield json.loads(data)


async def _lines(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for part in body:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    yield rest


async def _whole(response: Response) -> bytes:
    return b"".join([part async for part in response.body])


def _models(response: Response, data: bytes) -> list[_Json]:
    if response.status in (401, 403):
        raise CallFailed("UNAUTHENTICATED", f"status {response.status}: it wants another OPENAI_API_KEY")
    if response.status != 200:
        raise _refused(response.status, data)
    try:
        cards: list[_Json] = [card for card in json.loads(data)["data"] if isinstance(card["id"], str)]
    except _STRANGE:
        cards = []
    if not cards:
        raise CallFailed("UNIMPLEMENTED", "/v1/models lists nothing; name an OpenAI-compatible server")
    return cards


def _refused(status: int, data: bytes) -> CallFailed:
    """What an error means, by its own code where that is gRPC's name, as ours is."""
    try:
        error = json.loads(data)["error"]
        words, code = str(error.get("message", error)), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        words, code = data.decode(errors="replace")[:200], None
    if isinstance(code, int):
        status = code
    name = str(code).upper()
    return CallFailed(name if name in _NAMES else _CODE_OF.get(status, "INTERNAL"), words)
