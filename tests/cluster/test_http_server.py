"""The HTTP server alone, over loopback: what becomes of a handler whose caller has its whole response."""

import asyncio
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from cluster.http_server import HttpLimits, HttpServer, Response
from cluster.metrics import Metrics
from lorajax.errors import Unavailable
from tests.cluster.http_rig import get
from tests.cluster.rig import on_loop


@pytest.mark.parametrize(("error", "code"), [(None, "OK"), (Unavailable("the host went"), "UNAVAILABLE")])
@on_loop
async def test_what_a_handler_does_after_its_response_is_done_and_counted(error, code):
    has_gone, is_done = asyncio.Event(), asyncio.Event()

    async def handler(body, response):
        await response.json(200, {"text": "all of it"})
        await has_gone.wait()
        await asyncio.sleep(0.01)  # the server hears of it first
        is_done.set()
        if error is not None:
            raise error

    metrics = Metrics(CollectorRegistry())
    routes = {"/": {"GET": handler}}
    server = HttpServer("127.0.0.1:0", routes, metrics, HttpLimits(max_body=1, max_connections=9))
    rig = SimpleNamespace(addresses=await server.start())
    reply = await get(rig, "/")
    has_gone.set()
    await is_done.wait()
    await server.stop()
    assert (reply.status, reply.json) == (200, {"text": "all of it"})
    assert f'lorajax:requests_total{{code="{code}",method="HTTP/"}} 1.0' in metrics.text().decode().splitlines()


@on_loop
async def test_a_caller_who_takes_nothing_has_left():
    async def never(_message):
        await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await Response(never, take_s=0.0).json(200, {})
