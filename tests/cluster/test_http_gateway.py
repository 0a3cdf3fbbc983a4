"""HTTP at a cluster's gateway: every rule of the front door holds. What one host answers too is in test_http.py."""

import asyncio

import pytest

from lorajax.errors import Overloaded
from tests.cluster.gateway_rig import gateway_serving
from tests.cluster.http_rig import complete, get, leave, opened, post, submitted
from tests.cluster.rig import answer, on_loop, request
from tests.fakes import write_adapter


@on_loop
async def test_models_are_the_clusters(tmp_path):
    async with gateway_serving(tmp_path) as rig:
        await rig.load("sql")
        body = (await get(rig, "/v1/models")).json
    cards = [(card["id"], card["parent"], card["max_model_len"]) for card in body["data"]]
    assert cards == [("tiny", None, 64), ("sql", "tiny", 64)]


@on_loop
async def test_adapter_is_loaded_replaced_and_unloaded_by_the_coordinator(tmp_path):
    async with gateway_serving(tmp_path) as rig:
        for name in ("one", "two"):
            write_adapter(tmp_path / name, name)
        load = lambda path, **body: post(rig, "/v1/load_lora_adapter", lora_name="sql", lora_path=path, **body)
        replies = [await load("one"), await complete(rig, model="sql"), await load("two")]
        replies += [await load("two", load_inplace=True), await post(rig, "/v1/unload_lora_adapter", lora_name="sql")]
        replies.append(await complete(rig, model="sql"))
    assert [reply.status for reply in replies] == [200, 200, 409, 200, 200, 404]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"lora_name": "sql", "lora_path": "../../etc"}, "lora_path"),
        ({"lora_name": "sql", "lora_path": "nowhere"}, "lora_path"),
        ({"lora_name": "../sql", "lora_path": "sql"}, "lora_name"),
        ({"lora_name": "sql"}, "lora_path"),
    ],
)
@on_loop
async def test_adapter_that_cannot_be_loaded_names_the_field(tmp_path, body, param):
    async with gateway_serving(tmp_path) as rig:
        reply = await post(rig, "/v1/load_lora_adapter", **body)
    assert (reply.status, reply.error["param"]) == (400, param)


@on_loop
async def test_unknown_adapter_is_not_found_and_the_base_is_named(tmp_path):
    async with gateway_serving(tmp_path) as rig:
        await rig.load("pirate")
        reply = await complete(rig, model="pirat")
    assert (reply.status, reply.error["code"]) == (404, "not_found")
    assert "did you mean pirate?; the base model is 'tiny'" in reply.error["message"]


@on_loop
async def test_full_cluster_says_when_to_come_back(tmp_path):
    async with gateway_serving(tmp_path) as rig:
        rig.engine.refusal = Overloaded("1024 requests wait", retry_s=2.5)
        reply = await complete(rig)
    assert (reply.status, reply.error["type"], reply.headers["retry-after"]) == (429, "rate_limit_error", "3")


@pytest.mark.parametrize("stream", [True, False])
@on_loop
async def test_host_lost_half_way_ends_the_answer_clearly(tmp_path, stream):
    async with gateway_serving(tmp_path, is_paced=True) as rig:
        asking = asyncio.create_task(complete(rig, stream=stream))
        await submitted(rig)
        rig.engine.step()
        await rig.worker.stop()
        reply = await asking
    assert reply.status == (200 if stream else 409)
    assert b"host h0 was lost after 1 replies; ask again" in reply.data
    assert b"[DONE]" not in reply.data


@on_loop
async def test_callers_who_leave_are_forgotten_at_the_host_and_in_the_waiting_room(tmp_path):
    async with gateway_serving(tmp_path, is_paced=True) as rig:
        lines = [await opened(rig) for _ in range(9)]  # twice the host's four sequences, and one that waits
        for _ in range(8):
            await submitted(rig)
        text = (await get(rig, "/metrics")).data.decode()
        for _, writer in lines:
            await leave(writer)
        while "lorajax:num_requests_in_flight 0.0" not in (await get(rig, "/metrics")).data.decode():
            pass
        while rig.engine.running:
            await rig.calls.get()
    assert "lorajax:num_requests_waiting 1.0" in text


@on_loop
async def test_health_follows_the_hosts(tmp_path):
    async with gateway_serving(tmp_path, is_open=False) as rig:
        before = await get(rig, "/health")
        await rig.worker.open()
        while (after := await get(rig, "/health")).status != 200:
            pass
    assert (before.status, before.headers["retry-after"], after.json) == (503, "1", {"status": "serving"})


@on_loop
async def test_metrics_are_those_of_the_cluster(tmp_path):
    async with gateway_serving(tmp_path) as rig:
        await complete(rig)
        await answer(rig.inference.Generate(request()))
        text = ""
        while not all(f'method="{method}"' in text for method in ("HTTP/v1/completions", "Inference/Generate")):
            text = (await get(rig, "/metrics")).data.decode()  # a call counts once its host has ended it too
    for line in (
        'lorajax:requests_total{code="OK",method="HTTP/v1/completions"} 1.0',
        'lorajax:requests_total{code="OK",method="Inference/Generate"} 1.0',
        'lorajax:tokens_total{kind="prompt"} 10.0',
        'lorajax:tokens_total{kind="completion"} 8.0',
        "lorajax:time_to_first_token_seconds_count 2.0",
        'lorajax:host_serving{host="h0"} 1.0',
    ):
        assert line in text.splitlines()
