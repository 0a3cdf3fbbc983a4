"""What Prometheus sees of a host."""

from collections import Counter

from prometheus_client import CollectorRegistry, generate_latest

from cluster.metrics import MAX_NAMES_SHOWN, Metrics, Rate, Snapshot
from lorajax.config import EngineStats
from tests.cluster.rig import answer, on_loop, refusal, request, serving

STATS = EngineStats(
    num_running=1, num_waiting=2, kv_pages_free=3, kv_pages_total=10, adapter_pages_free=5, adapter_pages_total=20
)


def shown(running):
    registry = CollectorRegistry()
    Metrics(registry).watch(lambda: Snapshot(stats=STATS, running=running, waiting=Counter(), now_s=1.0))
    return registry


@on_loop
async def test_calls_move_the_counters(tmp_path):
    async with serving(tmp_path) as rig:
        await answer(rig.inference.Generate(request("hello", 4)))
        await refusal(rig.inference.Generate(request("")))
        await refusal(rig.inference.Generate(request(adapters=["sql"])))
    value = rig.registry.get_sample_value
    for code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"):
        assert value("lorajax:requests_total", {"method": "Inference/Generate", "code": code}) == 1
    assert value("lorajax:tokens_total", {"kind": "prompt"}) == 5
    assert value("lorajax:tokens_total", {"kind": "completion"}) == 4
    assert value("lorajax:time_to_first_token_seconds_count") == 1


@on_loop
async def test_cancelled_call_is_counted_as_such(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        stream = rig.inference.Generate(request(request_id="r1"))
        await rig.called("submit", "r1")
        stream.cancel()
        await rig.called("cancel", "r1")
    labels = {"method": "Inference/Generate", "code": "CANCELLED"}
    assert rig.registry.get_sample_value("lorajax:requests_total", labels) == 1


@on_loop
async def test_adapters_in_use_are_shown_as_waiting_then_running(tmp_path):
    async with serving(tmp_path, is_paced=True) as rig:
        await rig.load("sql")
        stream = rig.inference.Generate(request(request_id="r1", adapters=["sql"]))
        await rig.called("submit", "r1")
        assert b'running_lora_adapters="",waiting_lora_adapters="sql"' in generate_latest(rig.registry)
        rig.engine.step()
        await stream.read()
        assert b'running_lora_adapters="sql",waiting_lora_adapters=""' in generate_latest(rig.registry)
        stream.cancel()


def test_gauges_show_the_pools_and_the_queue():
    value = shown(Counter()).get_sample_value
    assert (value("lorajax:num_requests_running"), value("lorajax:num_requests_waiting")) == (1, 2)
    assert (value("lorajax:kv_pages", {"state": "used"}), value("lorajax:kv_pages", {"state": "free"})) == (7, 3)
    assert value("lorajax:adapter_pages", {"state": "used"}) == 15


def test_label_does_not_grow_with_the_number_of_adapters():
    running = Counter({f"a{number}": 1 for number in range(1000)}) + Counter({"busy": 2})
    lines = [line for line in generate_latest(shown(running)).decode().splitlines() if "lora_requests_info{" in line]
    assert len(lines) == 1
    assert lines[0].count(",a") < MAX_NAMES_SHOWN
    assert "busy" in lines[0]


def test_rate_forgets_what_is_older_than_its_window():
    rate = Rate()
    for second in range(30):
        rate.add(20, second + 0.5)
    assert (rate.per_s(29.9), rate.per_s(34.9), rate.per_s(60.0)) == (20.0, 10.0, 0.0)
