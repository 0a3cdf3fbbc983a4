"""The steps that are measured, and what they must move. Owns: names, ranks, shapes, floors. Does not: hold arrays.

Imports nothing, so that a peer's process, which has no JAX, reads the same cases.
"""

from dataclasses import dataclass

ROWS = 8
"""Rank rows of one adapter page."""
NUM_SLOTS = 32
"""Adapters of the bank."""
FEW_SLOTS = 8
"""Adapters that lie on the device for steps of no more: some peers' work follows what a pool could hold."""
MAX_RANK = 128
"""Of the pool: what a server must allow so that any of these adapters may come."""
CHECKED_ROWS = 256
"""Tokens of a step whose updates are compared with the reference's, at most; they are spread over the step."""


@dataclass(frozen=True)
class Group:
    """Linear layers that share their input."""

    name: str
    width_in: int
    widths_out: tuple[int, ...]

    @property
    def width_out(self) -> int:
        """Of all layers, side by side."""
        return sum(self.widths_out)


LLAMA_3_8B = (
    Group("qkv", 4096, (4096, 1024, 1024)),
    Group("out", 4096, (4096,)),
    Group("gate_up", 4096, (14336, 14336)),
    Group("down", 14336, (4096,)),
)
TOY = (Group("qkv", 128, (128, 64, 64)), Group("down", 192, (128,)))


@dataclass(frozen=True)
class Case:
    """One step: a run of so many tokens for each adapter, first adapter first; the rest is padding."""

    name: str
    ranks: tuple[int, ...]
    tokens_each: int
    num_tokens: int
    """Tokens of the step, padding included."""

    def __post_init__(self) -> None:
        """Refuse what the pool could not hold or turn over."""
        assert self.num_slots % len(self.ranks) == 0, self.name
        assert max(self.ranks) <= MAX_RANK, self.name
        assert len(self.ranks) * self.tokens_each <= self.num_tokens, self.name

    @property
    def live_tokens(self) -> int:
        """Tokens that are no padding."""
        return len(self.ranks) * self.tokens_each

    @property
    def is_prefill(self) -> bool:
        """Whether runs are prompts."""
        return self.tokens_each > 1

    @property
    def num_copies(self) -> int:
        """Layers that each have adapters of their own, so that none is still in the cache at its next turn."""
        return 2 if self.is_prefill else 8

    @property
    def num_layers(self) -> int:
        """Layers of one measured program."""
        return 4 if self.is_prefill else 32

    @property
    def num_slots(self) -> int:
        """Adapters that lie on the device."""
        return FEW_SLOTS if len(self.ranks) <= FEW_SLOTS else NUM_SLOTS

    @property
    def num_turns(self) -> int:
        """Rounds over the copies until the runs use the same adapters again."""
        return self.num_slots // len(self.ranks)

    def slots(self, turn: int) -> tuple[int, ...]:
        """Which adapters the runs use in the turn-th round over the copies."""
        first = turn % self.num_turns * len(self.ranks)
        return tuple(range(first, first + len(self.ranks)))

    def rank_of_slot(self, slot: int) -> int:
        """Rank of an adapter of the pool."""
        return self.ranks[slot % len(self.ranks)]

    def checked_rows(self) -> slice:
        """Tokens whose updates are compared."""
        return slice(0, self.num_tokens, max(1, self.num_tokens // CHECKED_ROWS))

    def least_bytes(self, group: Group) -> int:
        """What must cross the memory bus: each page once, the input once, the update once; values of two bytes."""
        rows = sum(-(-rank // ROWS) * ROWS for rank in self.ranks)
        pages = rows * (len(group.widths_out) * group.width_in + group.width_out)
        return 2 * (pages + self.live_tokens * (group.width_in + group.width_out))

    def least_flop(self, group: Group) -> int:
        """Multiplications and additions, without padding."""
        per_rank = len(group.widths_out) * group.width_in + group.width_out
        return 2 * self.tokens_each * sum(self.ranks) * per_rank

    def floor_s(self, groups: tuple[Group, ...], bytes_per_s: float, flop_per_s: float) -> float:
        """No program is faster: group by group, the slower of bytes and arithmetic."""
        return sum(max(self.least_bytes(one) / bytes_per_s, self.least_flop(one) / flop_per_s) for one in groups)


def mixed(count: int) -> tuple[int, ...]:
    """Ranks 8 … 128, in turns."""
    return tuple((8, 16, 32, 64, 128)[i % 5] for i in range(count))


CASES = (
    Case("decode-r8", (8,) * 32, 1, 32),
    Case("decode-r128", (128,) * 32, 1, 32),
    Case("decode-mixed", mixed(32), 1, 32),
    Case("decode-skewed", (8,) * 31 + (128,), 1, 32),
    Case("decode-1", (64,), 1, 8),
    Case("decode-4", mixed(4), 1, 8),
    Case("decode-8", mixed(8), 1, 8),
    Case("prefill-2048", mixed(8), 256, 2048),
    Case("prefill-8192", mixed(8), 1024, 8192),
)
TOY_CASES = (
    Case("toy decode", (8, 64, 24, 128), 1, 8),
    Case("toy prefill", (16, 40), 20, 64),
)
ATTENTION = "attention-64x4k"
STEP = "step-llama-3-8b"
NAMES = (*(case.name for case in CASES), ATTENTION, STEP)


def layer_bytes(case: Case, groups: tuple[Group, ...]) -> int:
    """`least_bytes` of every group."""
    return sum(case.least_bytes(group) for group in groups)
