"""The search for our kernels' sizes, from start to table. Owns: the file that the kernels read. Does not: search."""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.kernels.bank import Bank
from benchmarks.kernels.cases import LLAMA_3_8B
from benchmarks.kernels.judge import Found
from benchmarks.kernels.run import command_line, gpu, ours, short
from benchmarks.kernels.tune import TUNED_CASES
from lorajax.errors import LorajaxError
from pallas_kernels.tuned import FOLDER, file_name

_LONGEST_S = 570.0


def tune(seed: int, folder: Path = FOLDER) -> Path:
    """Search, and write this device's table into `folder` after every row; returns the file.

    Raises: NoGpu.
    """
    path = folder / file_name(gpu())
    path.unlink(missing_ok=True)  # the search starts from the counted choice
    rows: list[Found] = []
    facts: dict[str, object] = {"command": command_line(), "seed": seed}
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lorajax-kernels-") as scratch:
        bank = Bank(Path(scratch), LLAMA_3_8B, TUNED_CASES, "bfloat16", seed).save()
        for name, found in ours("tune", bank, 0).outcomes(start_s + _LONGEST_S):
            print(f"{time.monotonic() - start_s:6.0f} s  {name}: {short(found)}", flush=True)
            facts |= {key: found[key] for key in ("device", "versions", "copy_bytes_per_s") if key in found}
            if "tuning" in found:
                rows.append(found)
                folder.mkdir(exist_ok=True)
                path.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    if not rows:
        raise LorajaxError(f"nothing was measured, so {path.name} was not written; see what each task said above")
    return path
