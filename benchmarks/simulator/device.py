"""How long a step takes. Owns: what a step computes, in numbers, and the model of its time. Measures and plans nothing.

A step reads the weights, multiplies its tokens, reads the KV of its sequences, and applies adapters. What the last
costs is where engines differ: by the ranks of the tokens, by the largest in the batch, or by the largest of the host.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Kernels(StrEnum):
    """What a token's adapter costs."""

    RANK_EXACT = "rank-exact"
    """Its own rank (ours)."""
    BATCH_MAX = "batch-max"
    """The largest rank of the step in arithmetic, its own in bytes (S-LoRA)."""
    SERVER_MAX = "server-max"
    """The largest rank that the host serves, in arithmetic and in bytes (vLLM)."""

    @property
    def mixing(self) -> float:
        """As `OperatingPoints.mixing` wants it."""
        return 0.0 if self is Kernels.RANK_EXACT else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What one step computes."""

    prefill_tokens: int
    decode_sequences: int
    """Each gets one token."""
    context_tokens: int
    """KV that is read: of every sequence of the step, once."""
    attended_pairs: int = 0
    """Of a prompt's token and one that it attends to, itself included."""
    prefill_by_rank: Mapping[int, int] = field(default_factory=dict)
    """Tokens by the rank of their adapter; those of the base model under 0, or not at all."""
    decode_by_rank: Mapping[int, int] = field(default_factory=dict)
    adapter_ranks: tuple[int, ...] = ()
    """Of the distinct adapters of the step."""
    host_rank: int = 0
    """The largest rank that the host is set up for; what padding to it costs (`SERVER_MAX`)."""


def attended_pairs(start: int, num_tokens: int) -> int:
    """Of so many neighbouring tokens of a prompt, and those that each of them attends to."""
    return num_tokens * start + num_tokens * (num_tokens + 1) // 2


class Base(Protocol):
    """What a step costs without KV and adapters."""

    def base_s(self, prefill_tokens: int, decode_sequences: int) -> float:
        """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Weights are read while tokens are multiplied: the slower of both counts."""

    overhead_s: float
    """Of every step: launches, collectives, and whatever the host does meanwhile."""
    weights_s: float
    token_s: float

    def base_s(self, prefill_tokens: int, decode_sequences: int) -> float:
        """Seconds."""
        return self.overhead_s + max(self.weights_s, self.token_s * (prefill_tokens + decode_sequences))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Steps are padded to the next of a few compiled shapes, each (tokens, seconds), smallest first."""

    decode: tuple[tuple[int, float], ...]
    mixed: tuple[tuple[int, float], ...]
    """With prompt tokens."""

    def base_s(self, prefill_tokens: int, decode_sequences: int) -> float:
        """Seconds; in proportion to the largest shape where none holds so many tokens."""
        shapes, tokens = self.mixed if prefill_tokens else self.decode, prefill_tokens + decode_sequences
        place = bisect_left(shapes, (tokens, 0.0))
        if place < len(shapes):
            return shapes[place][1]
        largest, seconds = shapes[-1]
        return seconds * tokens / largest


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Seconds of a step; takes a few microseconds to tell."""

    base: Base
    context_s: float
    """For each token of KV that is read."""
    adapters_s: float
    """Of every step with adapters: launches."""
    adapter_token_s: float
    """For each token with an adapter, whatever its rank: activations."""
    row_s: float
    """To read one rank row (A and B, every layer and target) of one adapter."""
    prefill_row_s: float
    """To apply one rank row to one token of a prompt."""
    decode_row_s: float
    """The same for one token that is generated."""
    attended_s: float = 0.0
    """For each pair of a prompt's token and one that it attends to."""
    sequence_s: float = 0.0
    """For each sequence that decodes: to sample a token, and to send it on its way."""
    kernels: Kernels = Kernels.RANK_EXACT

    def step_s(self, work: StepWork) -> float:
        """How long the step takes."""
        seconds = self.base.base_s(work.prefill_tokens, work.decode_sequences) + self.context_s * work.context_tokens
        seconds += self.attended_s * work.attended_pairs + self.sequence_s * work.decode_sequences
        return seconds + self.lora_s(work) if work.adapter_ranks else seconds

    def lora_s(self, work: StepWork) -> float:
        """The part of it that adapters take."""
        ranks, kernels = work.adapter_ranks, self.kernels
        if kernels is Kernels.RANK_EXACT:
            rows, padded = sum(ranks), 0
        elif kernels is Kernels.BATCH_MAX:
            rows, padded = sum(ranks), max(ranks)
        else:
            padded = max(work.host_rank, *ranks)
            rows = len(ranks) * padded
        seconds = self.adapters_s + self.row_s * rows
        for tokens, row_s in ((work.prefill_by_rank, self.prefill_row_s), (work.decode_by_rank, self.decode_row_s)):
            for rank, count in tokens.items():
                if rank:
                    seconds += count * (self.adapter_token_s + row_s * (padded or rank))
        return seconds
