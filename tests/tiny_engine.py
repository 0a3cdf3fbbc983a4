"""Real engines over the tiny models of `tests/tiny.py`. Owns: building and asking them. Does not: judge the answers.

A runner is compiled once a session for each kind of model and shared by all tests: its pages keep what earlier tests
wrote, so whoever reads a page that is not its own gets wrong tokens.
"""

import functools
import json
import queue
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import base, peft
from lorajax.adapter_pages import HostAdapter
from lorajax.config import EngineConfig
from lorajax.engine import Engine
from lorajax.mesh import Layout, make_mesh
from lorajax.plan import StepPlan
from lorajax.runner import PoolSizes, Runner
from lorajax.spec import Event, Failed, Finished, ModelSpec, Request, Sampling, Token, TokenEvent
from pallas_kernels import ops
from tests import tiny

FIXTURES = Path(__file__).parent / "fixtures"
PARITY = json.loads((FIXTURES / "parity.json").read_text(encoding="utf-8"))
TIMEOUT_S = 120.0
FEW_SHAPES = {"max_sequences": 8, "max_batch_tokens": 64, "interleaved_tokens": 56}
"""Sizes for which two shapes of a step are all there are: compiling is what these tests spend their time on."""
PACE_S = 0.02
"""How long each step of a paced engine waits for the test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One compiled model and its adapters by name."""

    spec: ModelSpec
    config: EngineConfig
    runner: Runner
    adapters: dict[str, HostAdapter]

    def request(self, id, prompt, *adapters, max_tokens=24, priority=0, deadline_s=None, **sampling) -> Request:
        """A request that ignores stop tokens; adapters by name, or as (name or HostAdapter, weight)."""
        pairs = [(use, 1.0) if isinstance(use, str | HostAdapter) else use for use in adapters]
        loaded = [(self.adapters[use] if isinstance(use, str) else use, weight) for use, weight in pairs]
        return Request(
            id=id,
            prompt=tuple(prompt),
            sampling=Sampling(max_tokens=max_tokens, ignore_eos=True, **sampling),
            adapters=tuple((adapter.spec.version, weight) for adapter, weight in loaded),
            priority=priority,
            deadline_s=deadline_s,
        )


def model(family, kernels, tensor_parallel=1, dtype="float32", **sizes) -> Model:
    """The fixture's model of a family, compiled, with all its adapters read; "native" must have been built."""
    config = EngineConfig(
        kv_bytes=4 << 20,
        adapter_bytes=2 << 20,
        host_adapter_bytes=64 << 20,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        **(FEW_SHAPES | sizes),
    )
    return _model(family, kernels, config)


@functools.cache
def _model(family, kernels, config) -> Model:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny.write_model(folder, family, PARITY["model_seeds"][family])
        adapters = {name: write_adapter(folder / name, family, name) for name in PARITY["adapter_seeds"]}
        return compiled(folder, adapters, config, kernels)


def compiled(path, adapters: dict[str, Path], config, kernels) -> Model:
    """A base model and its adapters from disk, ready to serve."""
    spec, dtype = base.read_spec(path), jnp.dtype(config.dtype)
    layout = Layout.of(spec, make_mesh(jax.devices(), config.tensor_parallel))
    weights = base.load(path, spec, lambda name: layout.sharding(layout.weight(name)), dtype)
    runner = Runner(spec, config, layout, ops.named(kernels), weights)
    runner.compile(lambda _: None)
    read_all = {name: read(folder, spec, config.dtype) for name, folder in adapters.items()}
    return Model(spec=spec, config=config, runner=runner, adapters=read_all)


def write_adapter(folder, family, name) -> Path:
    """One of the fixture's adapters as a PEFT folder."""
    tiny.write_adapter(folder, family, PARITY["adapter_seeds"][name], tiny.ADAPTERS[name])
    return folder


def read(folder, spec, dtype="float32") -> HostAdapter:
    """A PEFT folder as the engine wants it."""
    return peft.read(folder, spec, np.dtype(jnp.dtype(dtype)))


class _Share:
    """The first pages of a shared runner; every plan is kept, and `before_step` hears of it before it runs."""

    def __init__(self, runner: Runner, sizes: PoolSizes, before_step: Callable[[StepPlan], None]) -> None:
        self.sizes = sizes
        self.plans: list[StepPlan] = []
        self._runner = runner
        self._before_step = before_step

    def write(self, writes, adapters) -> None:
        self._runner.write(writes, adapters)

    def run(self, plan: StepPlan) -> dict[str, Token | None]:
        self.plans.append(plan)
        self._before_step(plan)
        return self._runner.run(plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that one request got."""

    tokens: tuple[Token, ...]
    ending: Finished | Failed

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


class Serving:
    """An engine on its thread, for one test, over a part of a model's pools.

    It starts when the first answer is awaited, so all that was submitted before arrives together. On leaving, every
    request must have had one terminal event, its last.
    """

    def __init__(
        self, model, *, kv_pages=None, adapter_pages=None, before_step=lambda _: None, read_adapter=None, **config
    ):
        whole = model.runner.sizes
        sizes = PoolSizes(
            num_kv_pages=kv_pages or whole.num_kv_pages, num_adapter_pages=adapter_pages or whole.num_adapter_pages
        )
        self._share = _Share(model.runner, sizes, before_step)
        self.failures: list[None] = []
        dtype = np.dtype(jnp.dtype(model.config.dtype))
        self.engine = Engine(
            model.spec,
            replace(model.config, **config),
            self._share,
            read_adapter=read_adapter or (lambda folder, version: peft.read(folder, model.spec, dtype, version)),
            on_failure=lambda: self.failures.append(None),
        )
        self._has_started = False
        self._listeners: dict[str, Callable[[Event], None]] = {}
        self._events: dict[str, list[Event]] = {}
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._cancelled: set[str] = set()

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, kind, *_) -> None:
        self.engine.stop()
        if kind is None:
            wrong = {id: events for id, events in self._events.items() if not self._ended_once(id, events)}
            assert not wrong, f"not one terminal event, the last: {wrong}"

    @property
    def plans(self) -> list[StepPlan]:
        """Every step so far."""
        return self._share.plans

    def load(self, *adapters, source=None, pinned=False) -> None:
        """Make HostAdapters servable."""
        for adapter in adapters:
            self.engine.add_adapter(adapter, source, pinned=pinned)

    def submit(self, *requests, listener: Callable[[Event], None] = lambda _: None) -> None:
        """Send requests; `listener` hears of their events on the engine's thread."""
        for request in requests:
            self._events[request.id], self._listeners[request.id] = [], listener
            self.engine.submit(request, self._sink)

    def cancel(self, request_id) -> None:
        """Cancel; no terminal event is due."""
        self._cancelled.add(request_id)
        self.engine.cancel(request_id)

    def wait_for(self, request_id, num_tokens) -> None:
        """Until a request has had so many tokens; a running engine goes on meanwhile."""
        self._until(lambda: len(self._events[request_id]) >= num_tokens)

    def ask(self, *requests, listener: Callable[[Event], None] = lambda _: None) -> dict[str, Answer]:
        """Send requests and wait for all that are in flight; every answer so far by id."""
        self.submit(*requests, listener=listener)
        self._until(lambda: all(self._has_ended(id) for id in list(self._events)))
        return {id: self._answer(events) for id, events in self._events.items() if id not in self._cancelled}

    def _until(self, holds) -> None:
        if not self._has_started:
            self._has_started = True
            self.engine.start()
        while not holds():
            try:
                self._news.get(timeout=TIMEOUT_S)
            except queue.Empty:
                raise AssertionError(f"no event for {TIMEOUT_S} s: {self.engine.stats()}") from None

    def _sink(self, event: Event) -> None:
        self._listeners[event.request_id](event)  # first, so that what it submits is in flight before this one ends
        self._events[event.request_id].append(event)
        self._news.put(event.request_id)

    def _has_ended(self, id) -> bool:
        return id in self._cancelled or (bool(self._events[id]) and not isinstance(self._events[id][-1], TokenEvent))

    def _ended_once(self, id, events) -> bool:
        num_endings = sum(not isinstance(event, TokenEvent) for event in events)
        return id in self._cancelled or (num_endings == 1 and self._has_ended(id))

    def _answer(self, events) -> Answer:
        return Answer(tokens=tuple(event.token for event in events[:-1]), ending=events[-1])


class Pace:
    """Holds each step back a little until `release`, so that a test can act in the middle of a stream."""

    def __init__(self) -> None:
        self._released = threading.Event()

    def __call__(self, plan: StepPlan) -> None:
        self._released.wait(PACE_S)

    def release(self) -> None:
        """Run freely from now on."""
        self._released.set()
