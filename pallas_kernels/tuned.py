"""What was measured to be fastest on this device. Owns: reading those tables. Does not: guess or measure.

`python -m benchmarks kernels --tune` writes `tuned/<device>.json`. Where there is none, or no row of a shape, the
choice is the one that counts bytes and units (`mosaic_parts.tuning`).
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from pallas_kernels import mosaic_parts
from pallas_kernels.mosaic_parts import Tuning

type Key = tuple[int, int, tuple[int, ...]]
"""(tokens of the step, in, out of each target)"""

FOLDER = Path(__file__).parent / "tuned"


def file_name(device_kind: str) -> str:
    """Of a device's table."""
    return f"{device_kind.lower().replace(' ', '-')}.json"


def tuning(num_tokens: int, wide: int, width_in: int, widths_out: Sequence[int]) -> Tuning:
    """The measured choice for the default device, else the counted one."""
    key = (num_tokens, width_in, tuple(widths_out))
    found = table(FOLDER / file_name(jax.devices()[0].device_kind)).get(key)
    return found or mosaic_parts.tuning(num_tokens, wide, width_in, widths_out)


@functools.cache
def table(path: Path) -> Mapping[Key, Tuning]:
    """The rows of a device's file; none where there is no file."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {(row["num_tokens"], row["width_in"], tuple(row["widths_out"])): Tuning(**row["tuning"]) for row in rows}
