"""What a host sustains at each rank, and what mixing ranks costs. Owns: the record and its file. Does not: measure."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoints:
    """Measured costs of one host of speed 1; every field is checked here, once."""

    tokens_per_s: Mapping[int, float]
    """Rank -> prompt and generated tokens per second within the latency target when alone; rank 0 is the base."""
    mixing: float
    """0: a token costs its own rank (rank-exact kernels). 1: it costs the largest rank of its host (padded)."""
    fetch_bytes_per_s: float
    """How fast an adapter comes from another host."""

    def __post_init__(self) -> None:
        """Refuse what could not have been measured."""
        if not self.tokens_per_s or min(self.tokens_per_s) < 0:
            raise ValueError(f"tokens_per_s has ranks {sorted(self.tokens_per_s)}; it needs at least one, none below 0")
        for name, value in (
            *((f"tokens_per_s of rank {rank}", rate) for rank, rate in self.tokens_per_s.items()),
            ("fetch_bytes_per_s", self.fetch_bytes_per_s),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be a number above 0")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"mixing is {self.mixing}; it must lie in 0 … 1")

    def cost_s(self, rank: int) -> float:
        """Host-seconds per token: linear between the measured ranks, going on as the last two do beyond them.

        Never less than the cost of the largest measured rank below.
        """
        points = sorted((known, 1 / rate) for known, rate in self.tokens_per_s.items())
        if rank <= points[0][0] or len(points) == 1:
            return points[0][1]
        pairs = list(pairwise(points))
        (low, low_s), (high, high_s) = next((pair for pair in pairs if rank <= pair[1][0]), pairs[-1])
        cost_s = low_s + (high_s - low_s) * (rank - low) / (high - low)
        return cost_s if rank <= high else max(cost_s, high_s)


DEFAULT = OperatingPoints(tokens_per_s={0: 395.0, 50: 265.0}, mixing=0.0, fetch_bytes_per_s=500e6)
"""Until `lorajax profile` has run: the base, and the mean rank, of `benchmarks/results/engine-cpu.json` (SmolLM2-135M
on two cores). A placement needs only their ratio; the fetch rate is a guess."""


def read(path: Path) -> OperatingPoints:
    """The points of a file that `write` wrote.

    Raises: ValueError naming the file where it holds something else; OSError where it cannot be read.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        rates = {int(rank): float(rate) for rank, rate in fields.pop("tokens_per_s").items()}
        return OperatingPoints(tokens_per_s=rates, **{name: float(value) for name, value in fields.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no operating points ({error}); write it with `lorajax profile`") from error


def write(path: Path, points: OperatingPoints) -> None:
    """Put the points into a JSON file, in place of what it held."""
    fields = asdict(points) | {"tokens_per_s": dict(sorted(points.tokens_per_s.items()))}
    path.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
