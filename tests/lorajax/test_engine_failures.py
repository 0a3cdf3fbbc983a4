"""What goes wrong in an engine ends the requests it concerns, each once, and touches no other."""

import time

import numpy as np
import pytest

from lorajax.adapter_pages import LowRank, pack
from lorajax.errors import (
    BadRequest,
    CorruptAdapter,
    DeadlineExceeded,
    EngineFailure,
    Unavailable,
    UnknownAdapter,
    UnsupportedAdapter,
)
from lorajax.spec import Failed, TokenEvent, Version
from tests import tiny
from tests.tiny_engine import PARITY, Pace, Serving, model, read, write_adapter

CASES = [case for case in PARITY["cases"] if case["family"] == "llama"]
BY_SET = {tuple(map(tuple, case["adapters"])): case for case in CASES if len(case["prompt"]) == 23}
BASE, RANK4, RSLORA8 = (BY_SET[adapters] for adapters in ((), (("rank4", 1.0),), (("rslora8", 1.0),)))


@pytest.fixture(params=["native", "xla"])
def llama(request):
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    return model("llama", request.param)


def ask_case(llama, id, case, **sampling):
    return llama.request(id, case["prompt"], *map(tuple, case["adapters"]), **sampling)


def error_of(answer):
    assert isinstance(answer.ending, Failed)
    return answer.ending.error


def overflowing(llama, scale):
    """An adapter of finite weights; its updates are finite too, but for a large `scale`."""
    rows = np.full((8, llama.spec.hidden_size), scale, np.float32)
    width = llama.spec.widths("v_proj")[1]
    columns = np.full((width, 8), scale, np.float32)
    updates = {(layer, "v_proj"): LowRank(a=rows, b=columns) for layer in range(llama.spec.num_layers)}
    return pack(updates, model=llama.spec, version=Version(f"scale {scale}"))


def beside(llama, adapter):
    """What others are told beside a request that uses `adapter` and takes one token; then, on the same pages, alone."""
    sizes = {"kv_pages": 11, "adapter_pages": 4}
    with Serving(llama, **sizes) as serving:
        serving.load(adapter, llama.adapters["rank4"], llama.adapters["rslora8"])
        neighbours = [ask_case(llama, "base", BASE, logprobs=5), ask_case(llama, "rank4", RANK4, logprobs=5)]
        bad = llama.request("bad", BASE["prompt"], adapter, max_tokens=1)
        together = serving.ask(neighbours[0], bad, neighbours[1])
        serving.engine.remove_adapter(adapter.spec.version)
        later = [ask_case(llama, f"later {i}", case, logprobs=5) for i, case in enumerate((RSLORA8, RANK4, BASE))]
        return together["bad"], {id: answer.tokens for id, answer in serving.ask(*later).items() if id != "bad"}


@pytest.mark.parametrize("scale", [1e20, 3e38])
def test_an_adapter_whose_output_overflows_fails_its_own_request_alone_and_leaves_nothing_behind(llama, scale):
    benign, wanted = beside(llama, overflowing(llama, 0.0))
    bad, others = beside(llama, overflowing(llama, scale))
    assert len(benign.tokens) == 1
    assert isinstance(error_of(bad), EngineFailure)
    assert others == wanted
    assert [token.id for token in others["base"]] == BASE["tokens"]
    assert [token.id for token in others["later 0"]] == RSLORA8["tokens"]


def test_cancelling_frees_pages_before_the_next_step(llama):
    heard = []

    def on_event(event):
        heard.append(event.request_id)
        if heard == ["first"] * 2:
            serving.cancel("first")

    long = max(CASES, key=lambda case: len(case["prompt"]))
    with Serving(llama, kv_pages=7) as serving:
        serving.load(*llama.adapters.values())
        answers = serving.ask(ask_case(llama, "first", long), ask_case(llama, "second", long), listener=on_event)
    assert answers["second"].ids == long["tokens"]
    steps = [[chunk.request.id for chunk in plan.chunks] for plan in serving.plans]
    assert steps[:4] == [["first"], ["first"], ["first"], ["second"]]  # two chunks of the prompt, one token, the other


def test_a_request_past_its_deadline_is_never_prefilled(llama):
    with Serving(llama) as serving:
        late = llama.request("late", BASE["prompt"], deadline_s=time.monotonic())
        answers = serving.ask(late, ask_case(llama, "base", BASE))
    assert isinstance(error_of(answers["late"]), DeadlineExceeded)
    assert answers["base"].ids == BASE["tokens"]
    assert not any(chunk.request.id == "late" for plan in serving.plans for chunk in plan.chunks)


def test_a_deadline_ends_a_running_stream_and_no_other(llama):
    with Serving(llama, before_step=Pace()) as serving:
        late = llama.request("late", BASE["prompt"], max_tokens=200, deadline_s=time.monotonic() + 0.2)
        answers = serving.ask(late, ask_case(llama, "base", BASE))
    assert isinstance(error_of(answers["late"]), DeadlineExceeded)
    assert answers["base"].ids == BASE["tokens"]


def test_a_removed_adapter_is_still_fetched_for_who_waits_for_it(llama, tmp_path):
    folders = [write_adapter(tmp_path / name, "llama", name) for name in ("rank4", "rslora8")]
    first, second = (read(folder, llama.spec) for folder in folders)
    pace = Pace()
    with Serving(llama, before_step=pace, adapter_pages=2, host_adapter_bytes=1) as serving:
        for folder, adapter in zip(folders, (first, second), strict=True):
            serving.load(adapter, source=folder)
        serving.submit(llama.request("first", [40], first, max_tokens=200))
        serving.submit(llama.request("second", RSLORA8["prompt"], second))
        serving.wait_for("first", 3)
        serving.engine.remove_adapter(second.spec.version)
        serving.submit(llama.request("third", RSLORA8["prompt"], second))
        pace.release()
        answers = serving.ask()
    assert answers["second"].ids == RSLORA8["tokens"]
    assert isinstance(error_of(answers["third"]), UnknownAdapter)


def test_an_adapter_changed_in_its_store_fails_who_waits_for_it_alone(llama, tmp_path):
    folder = write_adapter(tmp_path / "rank4", "llama", "rank4")
    changed = read(folder, llama.spec)
    tiny.write_adapter(folder, "llama", 999, tiny.ADAPTERS["rank4"])
    with Serving(llama, host_adapter_bytes=1) as serving:
        serving.load(changed, source=folder)
        serving.load(llama.adapters["rslora8"], source=write_adapter(tmp_path / "rslora8", "llama", "rslora8"))
        answers = serving.ask(
            llama.request("rank4", RANK4["prompt"], changed),
            ask_case(llama, "rslora8", RSLORA8),
            ask_case(llama, "base", BASE),
        )
    assert isinstance(error_of(answers["rank4"]), CorruptAdapter)
    assert [answers["rslora8"].ids, answers["base"].ids] == [RSLORA8["tokens"], BASE["tokens"]]


def test_a_second_request_of_the_same_id_leaves_the_first_alone(llama):
    endings = []

    def on_event(event):
        if not isinstance(event, TokenEvent):
            endings.append(event)
        elif len(serving.plans) == 2:
            serving.engine.submit(ask_case(llama, "same", RSLORA8), endings.append)

    with Serving(llama) as serving:
        serving.load(*llama.adapters.values())
        answers = serving.ask(ask_case(llama, "same", BASE), listener=on_event)
    assert isinstance(endings[0].error, BadRequest)
    assert answers["same"].ids == BASE["tokens"]


def test_a_step_that_raises_ends_every_request_and_the_engine(llama):
    late = []

    def break_down(plan):
        if plan.number == 3:
            serving.engine.submit(ask_case(llama, "late", BASE), late.append)
            raise RuntimeError("the device is gone")

    with Serving(llama, before_step=break_down, max_sequences=1) as serving:
        answers = serving.ask(ask_case(llama, "running", BASE), ask_case(llama, "waiting", BASE))
        serving.engine.stop()
    assert [type(error_of(answer)) for answer in answers.values()] == [EngineFailure, EngineFailure]
    assert [type(event.error) for event in late] == [EngineFailure]
    assert len(serving.failures) == 1
    with pytest.raises(Unavailable, match="a step failed: RuntimeError; this host is going down"):
        serving.engine.submit(ask_case(llama, "after", BASE), late.append)


def test_an_engine_that_never_started_can_be_stopped(llama):
    serving = Serving(llama)
    serving.engine.stop()
    assert serving.plans == []


def test_a_refused_pin_leaves_nothing_of_the_adapter_behind(llama):
    with Serving(llama, adapter_pages=3) as serving:
        for name in ("rank4", "rslora8"):
            serving.engine.add_adapter(llama.adapters[name], None, pinned=True)
        before = serving.engine.stats().residency
        with pytest.raises(UnsupportedAdapter, match="pinned"):
            serving.engine.add_adapter(llama.adapters["rank1"], None, pinned=True)
        assert serving.engine.stats().residency == before
