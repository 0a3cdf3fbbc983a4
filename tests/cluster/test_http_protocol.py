"""HTTP over loopback below the API: paths, methods, headers, and connections that carry something else."""

import asyncio

import pytest

from tests.cluster.http_rig import ask, complete, get, http_serving
from tests.cluster.rig import on_loop

TEXT = "/v1/completions"


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/models/", "//v1/models", "/v1/../v1/models", "/V1/models", "/v1/models%00", "http://x/v1/models"],
)
@on_loop
async def test_only_exact_paths_are_answered(tmp_path, path):
    async with http_serving(tmp_path) as rig:
        reply = await get(rig, path)
    assert (reply.status, reply.error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", TEXT, "POST"),
        ("HEAD", TEXT, "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", TEXT, "POST"),
    ],
)
@on_loop
async def test_other_methods_are_told_which_are_allowed(tmp_path, method, path, allowed):
    async with http_serving(tmp_path) as rig:
        reply = await ask(rig, method, path)
    assert (reply.status, reply.headers["allow"]) == (405, allowed)
    assert method == "HEAD" or reply.error["code"] == "method_not_allowed"


@on_loop
async def test_host_header_changes_nothing(tmp_path):
    async with http_serving(tmp_path) as rig:
        replies = [await ask(rig, "GET", "/health", headers={"Host": host}) for host in ("x", "evil/v1/models?")]
        missing = await ask(rig, "GET", "/nothing", headers={"Host": "evil/health?"})
    assert [reply.status for reply in (*replies, missing)] == [200, 200, 404]


@on_loop
async def test_garbage_on_the_port_does_no_harm(tmp_path):
    async with http_serving(tmp_path) as rig:
        host, port = rig.addresses["http"].split(":")
        for data in (
            bytes(range(256)) * 4,
            b"GET / HTTP/9.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\r\n" * 40_000,
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            writer.write_eof()
            await reader.read()
            writer.close()
        assert (await complete(rig)).status == 200


@on_loop
async def test_body_that_ends_early_is_no_incident(tmp_path, caplog):
    async with http_serving(tmp_path) as rig:
        host, port = rig.addresses["http"].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        writer.close()
        await writer.wait_closed()
        assert (await complete(rig)).status == 200
    assert not caplog.records
