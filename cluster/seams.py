"""What one worker is put together from. Owns: the shapes of its parts and its settings. Does not: build or run them."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from cluster.catalogue import Catalogue
from cluster.metrics import Metrics
from lorajax.adapter_pages import HostAdapter
from lorajax.config import EngineStats
from lorajax.spec import Event, ModelSpec, Request, Version

type Export = Callable[[Version], Awaitable[HostAdapter]]
"""An adapter, for another host. Raises LorajaxError where this host cannot give it."""

MAX_METADATA_BYTES = 8 * 2**10
"""Of one call from a client."""


class Engine(Protocol):
    """One replica's engine, as its host calls it; every call is thread-safe.

    `submit`, `cancel` and `stats` return at once; the others wait until the engine is between two steps.
    """

    def submit(self, request: Request, sink: Callable[[Event], None]) -> None:
        """Serve the request; `sink` gets its events on the engine's thread, Finished or Failed last.

        Raises: BadRequest, Overloaded or Unavailable.
        """

    def cancel(self, request_id: str) -> None:
        """Free what the request holds, within one step; nothing happens where it has ended."""

    def finish(self, request_id: str) -> None:
        """End a request well, on a stop string: its sink gets Finished; nothing happens where it has ended."""

    def add_adapter(self, adapter: HostAdapter, source: Path | None, *, pinned: bool) -> None:
        """Make the version servable; again changes nothing. Raises UnsupportedAdapter if it can never fit."""

    def pin(self, version: Version, *, pinned: bool) -> None:
        """Keep the version on the device, or let it go. Raises UnsupportedAdapter if the pins can never fit."""

    def remove_adapter(self, version: Version) -> None:
        """Forget the version, once its last request has ended."""

    def export(self, version: Version) -> HostAdapter | None:
        """The version's arrays, where host memory has them."""

    def stats(self) -> EngineStats:
        """What it holds and does; no older than the last change of an adapter that returned."""


class StreamDecoder(Protocol):
    """Token ids of one completion to text, up to its first stop string."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; no text follows."""

    @property
    def is_holding(self) -> bool:
        """Whether text is held back: part of a character, or of what may become a stop string."""

    def push(self, token_id: int) -> str:
        """The text that is now safe to show."""

    def flush(self) -> str:
        """The text still held back, at the end of the completion."""


class Tokenizer(Protocol):
    """Text to token ids and back; thread-safe."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: special tokens written in it stay text."""

    def encode_chat(self, rendered: str) -> list[int]:
        """Ids of a rendered conversation: special tokens are recognised."""

    def token_text(self, id: int) -> str:
        """One token on its own; part of a character shows as U+FFFD."""

    def stream(self, stop: Sequence[str]) -> StreamDecoder:
        """A decoder for one completion."""


class Template(Protocol):
    """The model's chat template."""

    def render(self, messages: Sequence[tuple[str, str]], *, enable_thinking: bool | None = None) -> str:
        """The conversation as the model expects it. Raises BadRequest for what it cannot take."""


class ReadAdapter(Protocol):
    """Reads and checks a PEFT folder against the served model; blocks."""

    def __call__(self, folder: Path, *, expect: Version | None = None) -> HostAdapter:
        """The adapter. Raises AdapterError; CorruptAdapter if it is another version than `expect`."""


class Front(Protocol):
    """One more protocol that a host answers, beside gRPC."""

    async def start(self) -> dict[str, str]:
        """Listen; returns where, by the protocol's name. Raises ValueError if the address is taken."""

    async def stop(self) -> None:
        """Close every connection, what still runs after a second; also where `start` failed or never was."""


class NoFront:
    """gRPC alone."""

    async def start(self) -> dict[str, str]:
        """Listen nowhere."""
        return {}

    async def stop(self) -> None:
        """Close nothing."""


class Member(Protocol):
    """What a host does as part of a cluster, beside answering requests."""

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What it answers other hosts."""

    def start(self, address: str) -> None:
        """Join, as the host that listens there."""

    def changed(self) -> None:
        """Let the cluster know soon that the host's state or its adapters have changed."""

    async def bring(self, names: Iterable[str], hints: Iterable[bytes]) -> float:
        """Return once the catalogue has those of the names that a hint says where to find; how many seconds it took.

        A `Catalogue.acquire` before anything else is awaited has them too. Raises BadRequest for a bad hint,
        AdapterError or Unavailable where an adapter cannot be had.
        """

    def used(self, versions: Iterable[Version], num_tokens: int) -> None:
        """Count tokens, of a prompt or generated, towards the demand for adapters."""

    async def stop(self) -> None:
        """Leave."""


class Alone:
    """A host without a cluster: its adapters are those that it was told to load."""

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Answer no host."""
        return ()

    def start(self, address: str) -> None:
        """Join nobody."""

    def changed(self) -> None:
        """Tell nobody."""

    async def bring(self, names: Iterable[str], hints: Iterable[bytes]) -> float:
        """Bring nothing: nobody's hints are followed."""
        return 0.0

    def used(self, versions: Iterable[Version], num_tokens: int) -> None:
        """Count nothing."""

    async def stop(self) -> None:
        """Leave nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """How one host is reached and what it promises."""

    host: str
    """Its name in replies and in `drain HOST`."""
    address: str
    """HOST:PORT to listen on; port 0 takes a free one."""
    model_name: str
    model: ModelSpec
    software_version: str
    kv_page_tokens: int = 16
    """Tokens of one of the engine's KV pages."""
    adapter_roots: tuple[Path, ...] = ()
    """Folders that `Adapters.Load` may read below."""
    drain_s: float = 30.0
    """How long running requests may finish. Too small cuts answers; too large delays restarts."""
    max_metadata_bytes: int = MAX_METADATA_BYTES
    """Of one call; more is refused by gRPC. A cluster's host takes a hint for each adapter of a weighted set in it."""
    max_streams: int = 4096
    """Requests in flight, those that are still being tokenised included; one more is refused as overloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the worker calls."""

    engine: Engine
    tokenizer: Tokenizer
    template: Template
    catalogue: Catalogue
    metrics: Metrics
    read_adapter: ReadAdapter
