"""What one engine is built with and what it reports. Owns: those two records. Does not: derive sizes from them."""

from dataclasses import dataclass, field
from typing import Literal

from lorajax.spec import Level, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Sizes of one replica's engine. Every number is a memory or latency trade-off."""

    kv_bytes: int
    """KV pool. Too small preempts long answers; too large leaves no room for adapters."""
    adapter_bytes: int
    """Device pool of adapter pages. Too small reloads adapters on most requests."""
    host_adapter_bytes: int
    """Host memory for adapters that are not on the device. Too small reads the store again."""
    max_batch_tokens: int = 256
    """Tokens of one step. Larger fills prompts faster where nothing decodes, and takes memory for activations."""
    interleaved_tokens: int = 24
    """Prompt tokens of a step that also decodes. Larger fills prompts faster, but delays the running streams more."""
    max_sequences: int = 16
    """Sequences decoded together."""
    max_queue: int = 1024
    """Requests waiting; one more is refused as overloaded."""
    kv_page_tokens: int = 16
    """Tokens of one KV page."""
    page_writes_per_step: int = 2
    """Adapter pages written to the device between two steps, so that a load never stalls running streams."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    tensor_parallel: int = 1
    """Devices that share one copy of the base model."""

    def __post_init__(self) -> None:
        """Refuse sizes that could never serve one request."""
        sizes = (
            "kv_bytes",
            "adapter_bytes",
            "host_adapter_bytes",
            "max_batch_tokens",
            "interleaved_tokens",
            "max_sequences",
            "max_queue",
        )
        for name in (*sizes, "kv_page_tokens", "page_writes_per_step"):
            if getattr(self, name) <= 0:  # our own field names, listed on the lines above
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.max_batch_tokens < self.max_sequences:
            raise ValueError(
                f"max_batch_tokens {self.max_batch_tokens} is below max_sequences {self.max_sequences}; "
                "every running sequence needs one token a step"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """A snapshot of one engine, for status, metrics and heartbeats."""

    num_running: int
    num_waiting: int
    kv_pages_free: int
    kv_pages_total: int
    adapter_pages_free: int
    adapter_pages_total: int
    residency: dict[Version, Level] = field(default_factory=dict)
    num_steps: int = 0
    num_tokens: int = 0
    num_preemptions: int = 0
    adapter_loads: int = 0
    """Adapters written to the device since start."""
