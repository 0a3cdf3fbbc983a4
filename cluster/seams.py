"""What one worker is put together from. Owns: the shapes of its parts and its settings. Does not: build or run them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.catalogue import Catalogue
from cluster.metrics import Metrics
from lorajax.adapter_pages import HostAdapter
from lorajax.config import EngineStats
from lorajax.spec import Event, ModelSpec, Request, Version


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

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The conversation as the model expects it. Raises BadRequest for what it cannot take."""


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
    read_adapter: Callable[[Path], HostAdapter]
    """Reads and checks a PEFT folder against the served model; blocks."""
