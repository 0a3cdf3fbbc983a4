"""Frozen records that every package shares. Owns: their fields and what makes them valid. Does not: act or know JAX."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NewType

Version = NewType("Version", str)
"""Content hash (sha256, hex) of one adapter: what everything behind the front door is keyed by."""

ROWS_PER_PAGE = 8
"""Rank rows in one adapter page: 8 bfloat16 rows of 64 columns are one 128-byte swizzle atom on Hopper."""

MAX_RANK = 256
"""Largest rank of any layer of an adapter."""

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers an adapter can change, by their PEFT names, in the order our arrays keep them."""


def num_rank_pages(rank: int) -> int:
    """Pages that an adapter of this rank takes."""
    return -(-rank // ROWS_PER_PAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary embedding: base frequency and how long contexts are scaled.

    `kind` "none" is plain RoPE; "linear" divides positions by `factor`; "llama3" and "yarn" blend per frequency.
    `attention_factor` multiplies cos and sin (yarn only; None derives 0.1 ln(factor) + 1).
    Source: Su et al. 2021 (arXiv 2104.09864); Peng et al. 2023 (arXiv 2309.00071); Llama 3.1 model card.
    """

    theta: float
    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_max_len: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Shape of one base model; everything a compiled step depends on besides the weights' values."""

    family: Literal["llama", "qwen2", "qwen3"]
    """Which module of `lorajax/models` builds it. Mistral, SmolLM2 and TinyLlama are "llama"."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeSpec
    max_model_len: int
    """Largest prompt + completion, in tokens."""
    tied_embeddings: bool
    windows: tuple[int | None, ...]
    """Sliding window of each layer in tokens, None where the layer attends to everything; length `num_layers`."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end a completion unless the request ignores them."""

    def __post_init__(self) -> None:
        """Refuse shapes that no layer could have."""
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embedding needs pairs")
        if len(self.windows) != self.num_layers:
            raise ValueError(f"windows has {len(self.windows)} entries for {self.num_layers} layers")

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads

    def widths(self, target: Target) -> tuple[int, int]:
        """(in, out) of a linear layer."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden, wide = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (hidden, q),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (q, hidden),
            "gate_proj": (hidden, wide),
            "up_proj": (hidden, wide),
            "down_proj": (wide, hidden),
        }[target]

    def adapter_page_bytes(self, bytes_per_value: int) -> int:
        """Device bytes of one adapter page: 8 rank rows of A and B, every layer and target."""
        per_row = sum(sum(self.widths(target)) for target in TARGETS)
        return self.num_layers * ROWS_PER_PAGE * per_row * bytes_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """What the host side knows of one adapter: never its arrays."""

    version: Version
    rank: int
    """Largest rank of any layer: rows of A, 1 … MAX_RANK."""
    targets: tuple[Target, ...]
    num_bytes: int
    """Bytes of its pages in host memory."""

    def __post_init__(self) -> None:
        """Refuse ranks we have no pages for."""
        if not 1 <= self.rank <= MAX_RANK:
            raise ValueError(f"rank {self.rank} is outside 1 … {MAX_RANK}")

    @property
    def num_pages(self) -> int:
        """Device pages it takes."""
        return num_rank_pages(self.rank)


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {value}; it must lie in {low:.10g} … {high:.10g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen and when to stop. Every field is range-checked here, once."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    seed: int | None = None
    """None draws a fresh seed per request."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ignore_eos: bool = False
    logprobs: int | None = None
    """Number of alternatives reported beside each token's log probability, 0 … 20; None reports nothing."""

    def __post_init__(self) -> None:
        """Refuse every value outside its closed range."""
        _in_range("max_tokens", self.max_tokens, 1, 2**20)
        _in_range("temperature", self.temperature, 0, 2)
        if not (math.isfinite(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        _in_range("top_k", self.top_k, 0, 2**20)
        _in_range("min_p", self.min_p, 0, 1)
        if self.seed is not None:
            _in_range("seed", self.seed, 0, 2**64 - 1)
        if not (math.isfinite(self.repetition_penalty) and 0 < self.repetition_penalty <= 2):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must lie in (0, 2]")
        _in_range("presence_penalty", self.presence_penalty, -2, 2)
        _in_range("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.logprobs is not None:
            _in_range("logprobs", self.logprobs, 0, 20)
        if len(self.stop) > 16:
            raise ValueError(f"stop has {len(self.stop)} strings; at most 16")
        for text in self.stop:
            if not 1 <= len(text) <= 256:
                raise ValueError(f"a stop string has {len(text)} characters; it must have 1 … 256")
        if len(self.stop_token_ids) > 64:
            raise ValueError(f"stop_token_ids has {len(self.stop_token_ids)} ids; at most 64")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One admitted request: token ids and adapter versions, no names, no text."""

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    adapters: tuple[tuple[Version, float], ...] = ()
    """Weighted set of adapters, each version at most once; empty is the base model."""
    priority: int = 0
    """Larger goes first."""
    deadline_s: float | None = None
    """On the engine's clock (`time.monotonic`); a queued request past it is never prefilled."""

    def __post_init__(self) -> None:
        """Refuse what no engine could serve."""
        if not self.prompt:
            raise ValueError("the prompt is empty; send at least one token")
        versions = [version for version, _ in self.adapters]
        if len(set(versions)) != len(versions):
            raise ValueError("an adapter is named twice; add its weights up instead")
        for _, weight in self.adapters:
            _in_range("adapter weight", weight, -8, 8)


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token; log probabilities are natural logs, of the unscaled logits after penalties."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds spent in each part of one request, measured from its submission."""

    queue_s: float
    """Waiting for a place in a step, without the wait for adapters."""
    adapter_wait_s: float
    prefill_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """A request has one more token."""

    request_id: str
    token: Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A request ended well; nothing follows."""

    request_id: str
    reason: FinishReason
    num_prompt_tokens: int
    num_completion_tokens: int
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request ended badly; nothing follows. `error` is a LorajaxError."""

    request_id: str
    error: Exception


type Event = TokenEvent | Finished | Failed


class Level(StrEnum):
    """Where an adapter's pages are on one host."""

    STORE = "store"
    HOST = "host"
    DEVICE = "device"
