"""What became of requests. Owns: these records; drivers write them, statistics read them. Computes nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, whether it was simulated or sent; seconds after the start of the run."""

    due_s: float
    """When it was to be sent. Latencies count from here: a driver that is late is no excuse."""
    adapter: str
    rank: int
    """0: the base model."""
    prompt_tokens: int
    output_tokens: int
    """That were received."""
    sent_s: float
    first_s: float = math.inf
    """When its first token came; infinite where none did."""
    end_s: float = math.inf
    """When its answer was whole; infinite where it failed."""
    code: str = "OK"
    """gRPC's name of how it ended."""
    host: str = ""
    token_s: tuple[float, ...] = ()
    """When each message with tokens came, where the driver kept that."""
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUse:
    """One host over a run."""

    busy_s: float
    """In steps."""
    tokens: int
    """Prompt and generated."""
    mean_held_bytes: float
    """Adapters in its memory, in the mean over time."""
    max_held_bytes: int
    max_held_adapters: int
    device_hits: int = 0
    """Requests that found their adapters on the device."""
    host_hits: int = 0
    """In host memory."""
    misses: int = 0
    """Neither."""
    stall_s: float = 0.0
    """In which requests waited for adapters, summed over requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one system under one workload."""

    system: str
    workload: str
    facts: Mapping[str, object]
    """Everything that makes two runs comparable: command, seed, versions, device, workload, engine, scale."""
    outcomes: tuple[Outcome, ...]
    span_s: float
    """From the start of the workload to the last answer."""
    hosts: Mapping[str, HostUse] = field(default_factory=dict)
    moved_bytes: int = 0
    """Of adapters between hosts, and from the store."""
    num_moves: int = 0
    placements: tuple[tuple[float, Mapping[str, Mapping[str, float]]], ...] = ()
    """(when, adapter -> host -> share) of each round, where the driver kept that."""
