"""One request as any protocol may ask it, and how its answer ends. Owns: these records, and what needs no look-up.

Does not: know protobuf (cluster/wire.py does) or JSON (cluster/openai_query.py, openai_reply.py do).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config import ADAPTER_NAME
from lorajax.errors import BadRequest
from lorajax.spec import FinishReason, Request, Sampling, Timing, Token, Version

type Shown = list[tuple[Token, str]]
"""Tokens that may be shown now, each with its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation: (role, content) of each message."""

    messages: tuple[tuple[str, str], ...]
    enable_thinking: bool | None = None
    """For templates that know it; None: the template's own default."""


type Prompt = str | tuple[int, ...] | Chat


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as its caller wrote it, checked field by field: names and text, no versions or token ids yet."""

    request_id: str
    """Empty where the server is to make one."""
    prompt: Prompt
    adapters: tuple[tuple[str, float], ...]
    """(name, weight); empty is the base model."""
    sampling: Sampling
    fills_context: bool = False
    """Whether `sampling.max_tokens` gives way to as many as the prompt leaves room for."""
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """How one answer ended."""

    request_id: str
    reason: FinishReason
    num_prompt_tokens: int
    num_completion_tokens: int
    timing: Timing
    versions: tuple[Version, ...]
    host: str


def check_name(name: str, field: str = "name") -> None:
    """Refuse what no adapter can be called: BadRequest on `field`."""
    if not ADAPTER_NAME.fullmatch(name):
        raise BadRequest(
            f"adapter name {name[:40]!r} must be 1 … 128 letters, digits, '.', '_', '-', the first a letter or digit",
            field,
        )


def sampling_of(values: Mapping[str, object]) -> Sampling:
    """The record out of the fields that a caller has set. Raises BadRequest on `sampling.<field>`."""
    try:
        return Sampling(**values)  # type: ignore[arg-type]  # the protocol has checked the types, Sampling the ranges
    except ValueError as error:
        names = {field.name for field in dataclasses.fields(Sampling)}
        name = next((word for word in str(error).split() if word in names), "")
        raise BadRequest(str(error), f"sampling.{name}" if name else "sampling") from error


def request_of(
    call: Call, request_id: str, prompt: Sequence[int], versions: Sequence[Version], deadline_s: float | None
) -> Request:
    """The request that the engine sees; `versions` are those of `call.adapters`, in that order."""
    weights = (weight for _, weight in call.adapters)
    try:
        return Request(
            id=request_id,
            prompt=tuple(prompt),
            sampling=call.sampling,
            adapters=tuple(zip(versions, weights, strict=True)),
            priority=call.priority,
            deadline_s=deadline_s,
        )
    except ValueError as error:
        raise BadRequest(str(error), "adapters" if "adapter" in str(error) else "prompt") from error
