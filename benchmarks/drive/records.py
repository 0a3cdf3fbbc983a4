"""What a driver says to a server and hears from it. Owns: these records and the seam between pace and protocol.

Does not: send (over_grpc.py and over_http.py do), or choose when (open_loop.py does).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

type Prompt = tuple[int, ...] | str
type Heard = Callable[[int], None]
"""Told of each message with tokens, the moment it comes, and how many it has."""


class CallFailed(Exception):
    """A request that was not answered in full: gRPC's name of why, and the server's words."""

    def __init__(self, code: str, words: str) -> None:
        """Keep the code beside the words."""
        Exception.__init__(self, words)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as it is sent."""

    prompt: Prompt
    max_tokens: int
    """Exactly as many are wanted: the model's own end tokens are ignored."""
    adapter: str
    """The server's name of it; empty: the base model."""
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a request that succeeded ended, by the server's own count; None where it did not say."""

    prompt_tokens: int | None
    output_tokens: int | None
    host: str = ""
    first_token_s: float | None = None
    """From when the engine had the request to its first token."""
    adapter_wait_s: float = 0.0
    """Of these seconds, those for which it waited for adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a server says that it serves."""

    name: str
    """Where it is, for people."""
    ranks: Mapping[str, int | None]
    """Of its adapters, in its own order; None where the protocol does not tell."""
    max_model_len: int | None = None
    """Largest prompt + completion in tokens; None where the protocol does not tell."""


class Server(Protocol):
    """A server that can be driven."""

    async def offer(self) -> Offer:
        """What it serves. Raises CallFailed."""

    async def generate(self, call: Call, heard: Heard) -> Ending:
        """Ask, and return when the answer is whole. Raises CallFailed, also after `timeout_s`."""
