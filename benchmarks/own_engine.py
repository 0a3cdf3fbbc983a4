"""Our engine in this process, driven request by request. Owns: its start, the clock of every token.

Does not: decide what is measured, or build anything but what `lorajax serve` builds.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path

import jax
import jax.numpy as jnp

from checkpoints import base, peft
from cluster import device
from cluster.config import ServeConfig
from lorajax.adapter_pages import HostAdapter
from lorajax.engine import Engine
from lorajax.spec import Event, Failed, Finished, ModelSpec, Request, Sampling, TokenEvent, Version

_WAIT_S = 300.0


@dataclass(slots=True, kw_only=True)
class Stream:
    """One request under way. Owner of `tokens_s` until `is_done`: the engine's thread."""

    sent_s: float
    """On the clock of `time.perf_counter`, as all that follows."""
    tokens_s: list[float] = field(default_factory=list)
    """When each token came."""
    is_done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    on_token: Callable[[int], None] = lambda num_tokens: None
    """Told, on the engine's thread, how many tokens there are."""

    def __call__(self, event: Event) -> None:
        """Take an event in; the engine's sink."""
        if isinstance(event, TokenEvent):
            self.tokens_s.append(time.perf_counter())
            self.on_token(len(self.tokens_s))
        elif isinstance(event, Finished | Failed):
            self.error = event.error if isinstance(event, Failed) else None
            self.is_done.set()

    @property
    def gaps_s(self) -> list[float]:
        """Times between neighbouring tokens."""
        return [after - before for before, after in pairwise(self.tokens_s)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """One copy of the base model, shared by the engines of this process."""

    spec: ModelSpec
    weights: Mapping[str, jax.Array]
    path: Path

    @classmethod
    def load(cls, path: Path, dtype: str) -> "Base":
        """Start JAX as `lorajax serve` does and read the weights."""
        spec = base.read_spec(path)
        layout = device.layout(spec, dtype, 1)
        weights = base.load(path, spec, lambda name: layout.sharding(layout.weight(name)), jnp.dtype(dtype))
        return cls(spec=spec, weights=weights, path=path)

    @property
    def num_bytes(self) -> int:
        """Of the weights as they lie on the device."""
        return sum(weight.nbytes for weight in self.weights.values())


class OwnEngine:
    """An engine as `lorajax serve` builds it, without its network."""

    def __init__(self, model: Base, config: ServeConfig) -> None:
        """Build, compile and start it."""
        self._numbers = count()
        self._dtype = jnp.dtype(config.engine.dtype)
        self._spec = model.spec
        runner = device.make_runner(
            config, model.spec, device.layout(model.spec, config.engine.dtype, 1), dict(model.weights)
        )
        runner.compile(lambda _phase: None)
        self.kernels = runner.kernels
        self.engine = Engine(model.spec, config.engine, runner, self._read, on_failure=lambda: None)
        self.engine.start()

    def read(self, folder: Path) -> HostAdapter:
        """A PEFT folder's adapter, in host memory."""
        return peft.read(folder, self._spec, self._dtype)

    def _read(self, folder: Path, expected: Version) -> HostAdapter:
        return peft.read(folder, self._spec, self._dtype, expected)

    def send(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        adapters: Iterable[Version] = (),
        on_token: Callable[[int], None] = lambda num_tokens: None,
    ) -> Stream:
        """Submit one request."""
        stream = Stream(sent_s=time.perf_counter(), on_token=on_token)
        uses = tuple((version, 1.0) for version in adapters)
        request = Request(id=str(next(self._numbers)), prompt=tuple(prompt), sampling=sampling, adapters=uses)
        self.engine.submit(request, stream)
        return stream


def finished(streams: Sequence[Stream]) -> Sequence[Stream]:
    """The same streams, after the last of them has ended. Raises what any of them failed with."""
    for stream in streams:
        if not stream.is_done.wait(_WAIT_S):
            raise TimeoutError(f"a request did not end within {_WAIT_S:g} s")
        if stream.error is not None:
            raise stream.error
    return streams
