"""The tensors that all implementations get, as files. Owns: their names, values and layout.

Does not: know JAX or torch.
32 adapters of rank 128: an adapter of a smaller rank is the first rows of one. 16-bit values are stored as uint16.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.kernels.cases import MAX_RANK, NUM_SLOTS, ROWS, Case, Group

PAGES_OF_SLOT = MAX_RANK // ROWS
NUM_PAGES = NUM_SLOTS * PAGES_OF_SLOT


@dataclass(frozen=True)
class Bank:
    """A folder of tensors for layers of these groups, and of what the reference makes of them."""

    folder: Path
    groups: tuple[Group, ...]
    cases: tuple[Case, ...]
    dtype: str
    seed: int

    def save(self) -> Path:
        """Write what it is to `bank.json` of its folder."""
        path = self.folder / "bank.json"
        path.write_text(json.dumps(asdict(self), default=str))
        return path

    @classmethod
    def load(cls, path: Path) -> "Bank":
        """Read what `save` wrote."""
        found = json.loads(path.read_text())
        groups = tuple(Group(g["name"], g["width_in"], tuple(g["widths_out"])) for g in found["groups"])
        cases = tuple(Case(**{**case, "ranks": tuple(case["ranks"])}) for case in found["cases"])
        return cls(Path(found["folder"]), groups, cases, found["dtype"], found["seed"])

    def fill(self, dtype: np.dtype) -> None:
        """Draw every tensor; `dtype` is the one of that name, which numpy itself may not know."""
        tokens = max(case.num_tokens for case in self.cases)
        shapes: dict[str, tuple[int, ...]] = {}
        for group in self.groups:
            shapes[f"x-{group.width_in}"] = (tokens, group.width_in)
            for target, width in enumerate(group.widths_out):
                shapes[f"a-{group.name}-{target}"] = (NUM_PAGES, ROWS, group.width_in)
                shapes[f"b-{group.name}-{target}"] = (NUM_PAGES, ROWS, width)
        width_of = {group.name: group.width_in for group in self.groups}

        def draw(number: int, name: str) -> None:
            kind, group = name.split("-")[:2]
            scale = (64 * width_of[group]) ** -0.5 if kind == "b" else 1.0
            chance = np.random.default_rng([self.seed, number])
            out = np.empty(shapes[name], dtype)
            for part in np.array_split(out, 16):  # float32 of one part at a time
                part[...] = chance.standard_normal(part.shape, np.float32) * np.float32(scale)
            np.save(self.folder / f"{name}.npy", out.view(np.uint16))

        with ThreadPoolExecutor() as pool:
            list(pool.map(draw, range(len(shapes)), shapes))

    def bits(self, kind: str, group: Group, target: int = 0) -> np.ndarray:
        """uint16 of x[token, in], or of a[page, row, in] or b[page, row, out] of one target."""
        name = f"x-{group.width_in}" if kind == "x" else f"{kind}-{group.name}-{target}"
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def keep_wanted(self, case: Case, group: Group, update: np.ndarray) -> None:
        """Keep the reference's update[checked row, out] of a case's first layer, float32."""
        np.save(self._wanted(case, group), update)

    def wanted(self, case: Case, group: Group) -> np.ndarray:
        """What `keep_wanted` kept."""
        return np.load(self._wanted(case, group))

    def _wanted(self, case: Case, group: Group) -> Path:
        return self.folder / f"wanted-{case.name.replace(' ', '-')}-{group.name}.npy"


TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}
"""Of ‖actual - wanted‖ / ‖wanted‖: a few roundings of 8 or 11 bits of mantissa."""


def error_of(actual: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest relative error of the arrays; infinite where there is a NaN."""
    worst = max(
        float(np.linalg.norm(mine.astype(np.float32) - right) / np.linalg.norm(right))
        for mine, right in zip(actual, wanted, strict=True)
    )
    return worst if worst == worst else float("inf")
