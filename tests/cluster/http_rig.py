"""HTTP to a worker in the test's own process. Owns: requests by the standard library's client, and their replies."""

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.http_host import host_front
from tests.cluster.rig import Rig, serving

FRONT = partial(host_front, "127.0.0.1:0")
JSON = {"Content-Type": "application/json"}


@dataclass
class Reply:
    """One response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def json(self):
        return json.loads(self.data)

    @property
    def error(self) -> dict:
        assert self.headers["content-type"] == "application/json"
        assert self.json.keys() == {"error"}
        return self.json["error"]

    @property
    def events(self) -> list:
        """The events of a stream; the last one says that it is done."""
        assert self.headers["content-type"].startswith("text/event-stream")
        *events, done, nothing = self.data.decode().split("\n\n")
        assert (done, nothing) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


@contextlib.asynccontextmanager
async def http_serving(root: Path, **options) -> AsyncIterator[Rig]:
    """A worker that answers gRPC and HTTP until the block ends."""
    async with serving(root, make_front=FRONT, **options) as rig:
        yield rig


async def ask(rig: Rig, method: str, path: str, data: bytes | None = None, headers: dict | None = None) -> Reply:
    """One request on a connection of its own."""
    return await asyncio.to_thread(_ask, rig.addresses["http"], method, path, data, headers or {})


def _ask(address: str, method: str, path: str, data: bytes | None, headers: dict) -> Reply:
    connection = http.client.HTTPConnection(address, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())


async def get(rig: Rig, path: str) -> Reply:
    return await ask(rig, "GET", path)


async def post(rig: Rig, path: str, **body) -> Reply:
    return await ask(rig, "POST", path, json.dumps(body).encode(), JSON)


async def complete(rig: Rig, prompt="hello", **body) -> Reply:
    """A completion of four tokens by the base model; `body` overrides."""
    return await post(rig, "/v1/completions", **{"model": "tiny", "prompt": prompt, "max_tokens": 4} | body)


async def chat(rig: Rig, *contents, **body) -> Reply:
    """The next turn after these of the user; `body` overrides."""
    messages = [{"role": "user", "content": content} for content in contents or ("hi",)]
    return await post(rig, "/v1/chat/completions", **{"model": "tiny", "messages": messages} | body)


async def opened(rig: Rig, **body) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a completion has been asked for, to be read or left."""
    host, port = rig.addresses["http"].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 4} | body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    writer.write(f"{head}\r\n\r\n".encode() + data)
    return reader, writer


async def leave(writer):
    writer.close()
    await writer.wait_closed()


async def submitted(rig) -> str:
    """The id of the next request that reaches the engine."""
    while (call := await rig.calls.get())[0] != "submit":
        pass
    return call[1]
