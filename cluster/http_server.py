"""A small HTTP server: exact routes in, one handler a request. Owns: the socket, bodies, responses, callers who leave.

Does not: know what is asked (cluster/http_front.py does). Only this file knows the web server behind it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
import uvicorn

from cluster.config import parse_address
from cluster.guard import judged
from cluster.metrics import Metrics
from cluster.openai_reply import Json, error_of, error_of_verdict, http_code, retry_after
from cluster.wire import Verdict
from lorajax.errors import BadRequest

# ASGI's own types: dictionaries by convention.
type _Message = dict[str, Any]
type _Receive = Callable[[], Awaitable[_Message]]
type _Send = Callable[[_Message], Awaitable[None]]

_BODY_S = 60.0
"""How long a body may take to arrive."""
_TAKE_S = 60.0
"""How long a caller may leave what it is sent unread."""
_CLOSE_S = 1
_BACKLOG = 512
JSON = "application/json"


class Response:
    """One response as it is sent: whole, or as server-sent events.

    Invariant: it begins once, and nothing is sent once it is over. Owner: the request's task.
    """

    is_over = False
    """Whether all of it has been sent."""

    def __init__(self, send: _Send, take_s: float = _TAKE_S) -> None:
        """Nothing sent yet; a caller that takes nothing for `take_s` seconds has left."""
        self._asgi_send = send
        self._take_s = take_s
        self._has_begun = False

    async def whole(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """Send everything at once."""
        await self._begin(status, {"content-length": str(len(data)), **headers})
        await self._end(data)

    async def json(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> None:
        """Send one JSON object."""
        await self.whole(status, msgspec.json.encode(body), {"content-type": JSON, **(headers or {})})

    async def event(self, data: bytes) -> None:
        """Send one event of a stream; the first one begins it."""
        if not self._has_begun:
            await self._begin(200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
        await self._send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        await self._end(b"")

    async def fail(self, verdict: Verdict) -> None:
        """Tell of an error: as the response, or as the last event of a stream that has begun; not after its end."""
        if self.is_over:
            return None
        body = error_of_verdict(verdict)
        if not self._has_begun:
            return await self.json(http_code(verdict), body, retry_after(verdict))
        await self.event(msgspec.json.encode(body))
        return await self.end()

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._has_begun = True
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _end(self, data: bytes) -> None:
        self.is_over = True
        await self._send({"type": "http.response.body", "body": data})

    async def _send(self, message: _Message) -> None:
        try:
            async with asyncio.timeout(self._take_s):
                await self._asgi_send(message)
        except TimeoutError:
            self.is_over = True
            raise asyncio.CancelledError from None


type Handler = Callable[[bytes, Response], Coroutine[None, None, None]]
type Routes = Mapping[str, Mapping[str, Handler]]
"""Handlers by path and method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one server takes."""

    max_body: int
    """Bytes."""
    max_connections: int


class HttpServer:
    """Answers `routes`; belongs to the running event loop."""

    def __init__(self, address: str, routes: Routes, metrics: Metrics, limits: HttpLimits) -> None:
        """Nothing listens yet; `metrics` counts every call that a route took."""
        self._address = address
        self._routes = routes
        self._metrics = metrics
        self._max_body = limits.max_body
        self._serving: asyncio.Task[None] | None = None
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            proxy_headers=False,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what goes wrong here is a caller's doing; our own incidents are logged by `judged`
            access_log=False,
            server_header=False,
            limit_concurrency=limits.max_connections,
            timeout_graceful_shutdown=_CLOSE_S,
        )
        self._server = uvicorn.Server(config)
        # The host listens to signals itself.
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]

    async def start(self) -> dict[str, str]:
        """Listen; returns where, as {"http": "HOST:PORT"}. Raises ValueError if the address is taken."""
        host, port = parse_address(self._address)
        try:
            family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(place[:2], family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ValueError(
                f"cannot listen on {self._address}: in use, or not an address of this machine; "
                "choose another --http HOST:PORT"
            ) from error
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        return {"http": f"{host}:{listener.getsockname()[1]}"}

    async def stop(self) -> None:
        """Close every connection, what still runs after a second; also where nothing listens."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    async def _answer(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """One request, in ASGI. Its path alone says what it is for: not its host, its scheme or the end of its URL."""
        response = Response(send)
        methods = self._routes.get(scope["path"])
        if methods is None:
            await response.json(404, error_of(404, f"nothing is here; there is {' '.join(self._routes)}", "not_found"))
        elif (handler := methods.get(scope["method"])) is None:
            error = error_of(405, f"{scope['path']} takes {' and '.join(methods)}", "method_not_allowed")
            await response.json(405, error, {"allow": ", ".join(methods)})
        else:
            await self._guarded(handler, scope, receive, response)

    async def _guarded(self, handler: Handler, scope: _Message, receive: _Receive, response: Response) -> None:
        code, method = grpc.StatusCode.OK, f"HTTP{scope['path']}"
        try:
            body = await self._body(scope, receive)
            await _while_connected(receive, response, handler(body, response))
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001  # the process border: it ends this request
            verdict = judged(error, method)
            code = verdict.code
            await response.fail(verdict)
        finally:
            self._metrics.answered(method, code.name)

    async def _body(self, scope: _Message, receive: _Receive) -> bytes:
        """The whole body of a POST; raises BadRequest if it is too large, too slow, or not said to be JSON."""
        if scope["method"] != "POST":
            return b""
        kind = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != JSON.encode():  # a web page of another site may send any other type without asking first
            raise BadRequest(f"the content-type is {kind.decode(errors='replace')[:80]!r}; send {JSON}")
        data = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                while (message := await receive())["type"] == "http.request":
                    data += message["body"]
                    if len(data) > self._max_body:
                        raise BadRequest(f"the body has more than {self._max_body} bytes; send less")
                    if not message["more_body"]:
                        return bytes(data)
        except TimeoutError:
            raise BadRequest(f"the body took longer than {_BODY_S:g} s; send it faster") from None
        raise asyncio.CancelledError


async def _while_connected(receive: _Receive, response: Response, work: Coroutine[None, None, None]) -> None:
    """Carry the work out; it is cancelled, and this too, once the caller has left before the end of the response."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if response.is_over:
            await asyncio.wait((working,))
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
    working.result()


async def _left(receive: _Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
