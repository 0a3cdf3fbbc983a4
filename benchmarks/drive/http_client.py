"""HTTP/1.1 as a load generator needs it. Owns: kept connections, one request each at a time, bodies as they come.

There is no bound on connections: a client with a pool that is full would hold requests back unseen. h11 reads and
writes the protocol, asyncio the sockets. Does not: know what is asked, follow redirects, or try what was refused again.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

_READ_BYTES = 65_536
_PATH = re.compile(r"[!-~]*")
"""What a request line can carry."""


class ConnectionLost(OSError):
    """The server could not be reached, or left in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer whose body is still coming; read it inside the block that gave it."""

    status: int
    body: AsyncIterator[bytes]


class HttpClient:
    """Requests to one server, each on a connection of its own while it lasts.

    Invariant: a connection is in `_idle` or belongs to one request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """Take http(s)://HOST[:PORT][/PREFIX], and headers of every request. Raises: ValueError if it is no URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # of brackets that do not close, or a port that is none
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or not _PATH.fullmatch(parts.path):
            raise ValueError(f"{url!r} is not http://HOST:PORT; write the address of an OpenAI-compatible server")
        self._host, self._authority, self._prefix = parts.hostname, parts.netloc, parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        self._headers = dict(headers)
        self._idle: list[_Connection] = []

    @contextlib.asynccontextmanager
    async def request(self, method: str, path: str, body: bytes = b"") -> AsyncIterator[Response]:
        """Send one request; its answer is there when the head of it is. Raises ConnectionLost."""
        headers = {"host": self._authority, "accept": "*/*", "content-length": str(len(body))} | self._headers
        if body:
            headers["content-type"] = "application/json"
        request = h11.Request(method=method, target=self._prefix + path, headers=list(headers.items()))
        connection, status = await self._begun(request, body)
        try:
            yield Response(status, connection.body())
            if connection.is_reusable():
                self._idle.append(connection)
        finally:
            if connection not in self._idle:
                connection.close()

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()

    async def _begun(self, request: h11.Request, body: bytes) -> "tuple[_Connection, int]":
        """On a kept connection that is still open, else on a new one. What was sent is never sent again."""
        connection = await self._open()
        try:
            return connection, await connection.begin(request, body)
        except BaseException:
            connection.close()
            raise

    async def _open(self) -> "_Connection":
        while self._idle:
            if await (connection := self._idle.pop()).is_quiet():
                return connection
            connection.close()
        try:
            return _Connection(*await asyncio.open_connection(self._host, self._port, ssl=self._tls))
        except OSError as error:
            raise ConnectionLost(str(error) or type(error).__name__) from error


class _Connection:
    """One connection; whoever has it sends one request and reads its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = h11.Connection(h11.CLIENT)

    async def begin(self, request: h11.Request, body: bytes) -> int:
        """Send it all; the status of the answer."""
        events = (request, h11.Data(data=body), h11.EndOfMessage())
        try:
            self._writer.write(b"".join(self._protocol.send(event) or b"" for event in events))
            await self._writer.drain()
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event.status_code

    async def body(self) -> AsyncIterator[bytes]:
        """Parts of the body, as they come."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    def is_reusable(self) -> bool:
        """Whether the answer was read to its end and the server keeps the connection; makes ready for the next."""
        if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            return False
        if self._protocol.trailing_data[0]:
            return False
        self._protocol.start_next_cycle()
        return True

    async def is_quiet(self) -> bool:
        """Whether the server keeps it and has said nothing since its last answer."""
        if self._reader.exception() is not None or self._writer.is_closing():
            return False
        try:
            async with asyncio.timeout(0):
                await self._reader.read(1)
        except TimeoutError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it at once."""
        self._writer.close()

    async def _next(self) -> h11.Event:
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(_READ_BYTES))
        except (OSError, h11.RemoteProtocolError) as error:
            is_closed = self._reader.at_eof()  # h11 would tell of its states
            raise ConnectionLost("the server closed the connection" if is_closed else str(error)) from error
        if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
            raise ConnectionLost("the server closed the connection")
        return event
