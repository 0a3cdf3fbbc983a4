"""A request's tokens are its own: no neighbour, order, eviction, reload, preemption or page border changes them."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorajax.spec import TokenEvent
from tests import tiny
from tests.tiny_engine import PARITY, Pace, Serving, model, read, write_adapter

CASES = [case for case in PARITY["cases"] if case["family"] == "llama"]
MIN_KV_PAGES, MIN_ADAPTER_PAGES = 7, 8
"""The largest case, 70 + 24 tokens, and the largest set, of 7 pages; and page 0."""
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(params=["native", "xla"])
def kernels(request):
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    return request.param


@pytest.fixture
def llama(kernels):
    return model("llama", kernels)


@st.composite
def crowds(draw):
    """Cases with how many tokens are asked for, how many of them come late, and sizes that hold any one of them."""
    cases = draw(st.lists(st.tuples(st.sampled_from(CASES), st.integers(1, 24)), min_size=1, max_size=12))
    sizes = {
        "kv_pages": draw(st.integers(MIN_KV_PAGES, 20)),
        "adapter_pages": draw(st.integers(MIN_ADAPTER_PAGES, 16)),
        "page_writes_per_step": draw(st.integers(1, 4)),
        "max_sequences": draw(st.integers(1, 8)),
        "host_adapter_bytes": draw(st.sampled_from([1, 64 << 20])),
    }
    return cases, draw(st.integers(1, len(cases))), sizes


def case_requests(tiny_model, cases):
    return [
        tiny_model.request(str(i), case["prompt"], *map(tuple, case["adapters"]), max_tokens=max_tokens)
        for i, (case, max_tokens) in enumerate(cases)
    ]


def stored(tiny_model, **sizes):
    """Serving whose store is memory."""
    by_version = {adapter.spec.version: adapter for adapter in tiny_model.adapters.values()}
    return Serving(tiny_model, read_adapter=lambda _, version: by_version[version], **sizes)


@settings(max_examples=15, deadline=None)
@given(crowd=crowds())
@pytest.mark.usefixtures("native_kernels")
def test_tokens_are_the_same_in_any_crowd(crowd, tmp_path_factory):
    cases, num_early, sizes = crowd
    llama = model("llama", "native")
    early, late = (lambda all: (all[:num_early], all[num_early:]))(case_requests(llama, cases))

    def on_event(_):
        if late:
            serving.submit(late.pop(), listener=on_event)

    with stored(llama, **sizes) as serving:
        serving.load(*llama.adapters.values(), source=tmp_path_factory.getbasetemp())
        answers = serving.ask(*early, listener=on_event)
    assert [answers[str(i)].ids for i in range(len(cases))] == [case["tokens"][:n] for case, n in cases]


def test_preempted_streams_go_on_as_if_nothing_had_happened(llama):
    long = [case for case in CASES if len(case["prompt"]) == 23][:5]
    with Serving(llama, kv_pages=MIN_KV_PAGES) as serving:
        serving.load(*llama.adapters.values())
        answers = serving.ask(*case_requests(llama, [(case, 24) for case in long]))
    starts = [chunk.request.id for plan in serving.plans for chunk in plan.chunks if chunk.start == 0]
    assert len(starts) > len(long)
    assert [answers[str(i)].ids for i in range(len(long))] == [case["tokens"] for case in long]


@pytest.mark.parametrize("level", ["host", "store"])
def test_an_adapter_answers_the_same_after_each_eviction(llama, level, tmp_path):
    config = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "up_proj"]}
    folders = [tmp_path / str(seed) for seed in range(8)]
    for seed, folder in enumerate(folders):
        tiny.write_adapter(folder, "llama", 200 + seed, config)
    adapters = [read(folder, llama.spec) for folder in folders]
    prompt = CASES[1]["prompt"]

    def answers(rounds, **sizes):
        with Serving(llama, **sizes) as serving:
            for folder, adapter in zip(folders, adapters, strict=True):
                serving.load(adapter, source=folder)
            for turn in range(rounds):  # by turns: requests that arrive together would share what is loaded
                for i, adapter in enumerate(adapters):
                    got = serving.ask(llama.request(f"{i}/{turn}", prompt, adapter, max_tokens=8))
        return {id: answer.ids for id, answer in got.items()}, serving.plans

    roomy, _ = answers(1)
    host_adapter_bytes = {"host": 64 << 20, "store": adapters[0].spec.num_bytes}[level]
    tight, plans = answers(3, adapter_pages=3, host_adapter_bytes=host_adapter_bytes)
    assert sum(len(plan.writes) for plan in plans) > 16
    assert any(plan.fetches for plan in plans) == (level == "store")
    assert tight == {f"{i}/{turn}": roomy[f"{i}/0"] for i in range(8) for turn in range(3)}


SETTINGS = [
    {"temperature": 0.8, "seed": 1},
    {"temperature": 1.0, "top_p": 0.9, "seed": 2},
    {"temperature": 1.2, "top_k": 20, "min_p": 0.02, "seed": 2**63 + 5},
    {"temperature": 0.7, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "seed": 4},
    {"presence_penalty": 1.5},
    {},
]


def test_seeded_draws_are_the_same_alone_and_after_preemption(llama):
    cases = [case for case in CASES if len(case["prompt"]) in (5, 23)][: 2 * len(SETTINGS)]
    requests = [
        llama.request(str(i), case["prompt"], *map(tuple, case["adapters"]), **SETTINGS[i % len(SETTINGS)])
        for i, case in enumerate(cases)
    ]
    alone = {}
    with Serving(llama) as serving:
        serving.load(*llama.adapters.values())
        for request in requests:
            alone[request.id] = serving.ask(request)[request.id].ids
    with Serving(llama, kv_pages=MIN_KV_PAGES, adapter_pages=MIN_ADAPTER_PAGES) as serving:
        serving.load(*llama.adapters.values())
        crowded = serving.ask(*reversed(requests))
    assert {id: answer.ids for id, answer in crowded.items()} == alone


BORDERS = (1, 2, 15, 16, 17, 63, 64, 65, 80, 127, 128, 129, 192, 193, 255)
"""Around pages of 16, chunks of 64, attention blocks of 128 and the whole context of 256 tokens."""


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_prompt_goes_on_as_the_stream_it_was_cut_from(family, kernels):
    tiny_model = model(family, kernels)
    goes_on_at_borders(tiny_model)


def test_odd_sizes_change_nothing():
    """Pages that do not divide an attention block, five sequences, chunks below one tile."""
    goes_on_at_borders(model("llama", "xla", kv_page_tokens=24, max_sequences=5, max_batch_tokens=40))


def goes_on_at_borders(tiny_model):
    with Serving(tiny_model) as serving:
        serving.load(*tiny_model.adapters.values())
        whole = [40, *serving.ask(tiny_model.request("whole", [40], "rslora8", max_tokens=255))["whole"].ids]
        cuts = serving.ask(*(tiny_model.request(str(n), whole[:n], "rslora8", max_tokens=1) for n in BORDERS))
    assert [cuts[str(n)].ids for n in BORDERS] == [[whole[n]] for n in BORDERS]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("bfloat16", 0.2)])
@pytest.mark.usefixtures("native_kernels")
def test_narrow_floats_stay_close_to_float32(dtype, tolerance):
    answers = {}
    for kind in ("float32", dtype):
        tiny_model = model("llama", "native", dtype=kind)
        with Serving(tiny_model) as serving:
            serving.load(*tiny_model.adapters.values())
            requests = [tiny_model.request(f"{name}", CASES[3]["prompt"], name) for name in tiny_model.adapters]
            answers[kind] = serving.ask(*(one_token(tiny_model, request) for request in requests))
    for name, wide in answers["float32"].items():
        narrow = answers[dtype][name].tokens[0]
        np.testing.assert_allclose(narrow.logprob, dict(wide.tokens[0].top)[narrow.id], rtol=0, atol=tolerance)


def one_token(tiny_model, request):
    return tiny_model.request(request.id, request.prompt, request.id, max_tokens=1, logprobs=20)


def test_nothing_is_compiled_after_compile(llama):
    compiled = []

    def on_duration(event, *_, **__):
        if event == COMPILED:
            compiled.append(event)

    random = np.random.default_rng(0)
    waiting = [random_request(llama, random, i) for i in range(60)]

    def on_event(event):
        if waiting and not isinstance(event, TokenEvent):
            serving.submit(waiting.pop(), listener=on_event)

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        with Serving(llama, kv_pages=40, adapter_pages=MIN_ADAPTER_PAGES) as serving:
            serving.load(*llama.adapters.values())
            serving.ask(waiting.pop(), waiting.pop(), waiting.pop(), waiting.pop(), listener=on_event)
        num_compiled = len(compiled)
        jax.jit(lambda x: x + 1.5)(np.float32(1))
    finally:
        jax.monitoring.unregister_event_duration_listener(on_duration)
    assert (num_compiled, len(compiled) > 0, len(serving.plans) >= 200) == (0, True, True)


def random_request(tiny_model, random, i):
    names = random.choice(sorted(tiny_model.adapters), size=random.integers(0, 3), replace=False)
    return tiny_model.request(
        str(i),
        random.integers(0, tiny_model.spec.vocab_size, random.integers(1, 150)).tolist(),
        *((str(name), float(random.uniform(-1, 1))) for name in names),
        max_tokens=int(random.integers(1, 40)),
        temperature=float(random.choice([0, 1])),
        top_p=float(random.choice([0.5, 1])),
        top_k=int(random.choice([0, 7])),
        repetition_penalty=float(random.choice([1, 1.2])),
        logprobs=[None, 0, 5][random.integers(3)],
    )


def test_a_version_that_is_replaced_ends_its_streams_unchanged(llama, tmp_path):
    old = read(write_adapter(tmp_path / "a", "llama", "rank4"), llama.spec)
    new = read(write_adapter(tmp_path / "b", "llama", "rslora8"), llama.spec)
    pace, prompt = Pace(), CASES[0]["prompt"]
    with Serving(llama) as serving:
        serving.load(old, new)
        alone = serving.ask(*(llama.request(str(i), prompt, a, max_tokens=180) for i, a in enumerate((old, new))))
    with Serving(llama, before_step=pace, adapter_pages=3) as serving:
        serving.load(old, source=tmp_path / "a")
        serving.submit(llama.request("old", prompt, old, max_tokens=180))
        serving.wait_for("old", 3)
        serving.load(new, source=tmp_path / "b")
        serving.engine.remove_adapter(old.spec.version)
        serving.submit(llama.request("new", prompt, new, max_tokens=180))
        serving.wait_for("new", 1)
        pace.release()
        answers = serving.ask()
    assert [answers["old"].ids, answers["new"].ids] == [alone["0"].ids, alone["1"].ids]


def test_export_gives_the_pages_of_what_host_memory_has(llama):
    adapter, *_ = llama.adapters.values()
    with Serving(llama) as serving:
        serving.load(adapter)
        assert serving.engine.export(adapter.spec.version) is adapter
        assert serving.engine.export("ab" * 32) is None
