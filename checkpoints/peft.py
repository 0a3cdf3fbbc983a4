"""PEFT adapter folders to our pages and back. Owns: that what is read is what PEFT would compute, or is refused.

Does not: look outside the folder it is given, check who may read it, or know the config's matching rules
(checkpoints/peft_config.py does). The base model's name is not compared, for it is often a path on the trainer's
machine; widths and layers are.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.numpy

from checkpoints.fields import Fields, brief, check_regular, parse_object
from checkpoints.peft_config import Claim, claims, module_name
from checkpoints.safetensors_files import TensorEntry, TensorFiles
from lorajax.adapter_pages import HostAdapter, LowRank, Module, pack, unpack
from lorajax.errors import CorruptAdapter, MalformedAdapter, MalformedCheckpoint, UnsupportedAdapter
from lorajax.spec import TARGETS, ModelSpec, Version

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MAX_CONFIG_BYTES: Final = 2**20

_PICKLES: Final = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_NAME: Final = re.compile(
    r"(?:base_model\.model\.)?(?P<module>model\.layers\.(?P<layer>\d+)\.\w+\.\w+)"
    r"\.lora_(?P<side>[AB])(?:\.default)?\.weight",
    re.ASCII,
)

type Names = dict[tuple[Module, str], str]
"""The tensor of each side, "A" or "B", of each module."""


def read(folder: Path, model: ModelSpec, dtype: np.dtype, expect: Version | None = None) -> HostAdapter:
    """The adapter in a PEFT folder, packed for `model`, each value rounded once to `dtype`.

    Its version is a sha256 over the config's bytes and every tensor's name, dtype, shape and bytes, taken as they are
    read: what is served is what was hashed. Host memory: the file's tensors and the pages.
    Raises: MalformedAdapter, UnsupportedAdapter; CorruptAdapter instead of either, or if the version is another, where
    `expect` says that the folder was registered before.
    """
    try:
        adapter = _read(folder, model, dtype)
    except (MalformedCheckpoint, MalformedAdapter, UnsupportedAdapter) as error:
        if expect is not None:
            raise CorruptAdapter(f"{folder.name}: changed after it was registered: {error}") from error
        if isinstance(error, MalformedCheckpoint):
            raise MalformedAdapter(str(error)) from error
        raise
    if expect is not None and adapter.spec.version != expect:
        got = adapter.spec.version
        raise CorruptAdapter(
            f"{folder.name}: changed after it was registered: version {got}, wanted {expect}; load it anew"
        )
    return adapter


def _read(folder: Path, model: ModelSpec, dtype: np.dtype) -> HostAdapter:
    raw = _config_bytes(folder)
    claimed = claims(Fields(source=CONFIG, values=parse_object(raw, CONFIG)), model)
    files = _open_tensors(folder)
    names = _names(files.entries, model)
    _check(names, files.entries, claimed, model)
    tensors, version = _hashed(raw, files)
    updates = {
        module: LowRank(a=tensors[names[module, "A"]], b=tensors[names[module, "B"]], scale=claim.scale)
        for module, claim in claimed.items()
    }
    return pack(updates, model=model, version=version, dtype=dtype)


def _config_bytes(folder: Path) -> bytes:
    path = folder / CONFIG
    if not path.exists() and (deeper := sorted(folder.glob(f"*/{CONFIG}"))):  # where PEFT saves an adapter with a name
        raise MalformedAdapter(f"{CONFIG}: it is in {folder.name}/{deeper[0].parent.name}; name that folder")
    check_regular(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise MalformedAdapter(f"{CONFIG}: {error.strerror}") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise MalformedAdapter(f"{CONFIG}: larger than {MAX_CONFIG_BYTES} bytes, which no adapter's settings are")
    return raw


def _open_tensors(folder: Path) -> TensorFiles:
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles and not (folder / WEIGHTS).exists():
        raise MalformedAdapter(
            f"{pickles[0]}: a pickle can run code, so it was not opened; save the adapter as {WEIGHTS} "
            "(safe_serialization=True)"
        )
    return TensorFiles.open([folder / WEIGHTS])


def _names(entries: Mapping[str, TensorEntry], model: ModelSpec) -> Names:
    modules = {module_name(layer, target): (layer, target) for layer in range(model.num_layers) for target in TARGETS}
    names: Names = {}
    for name in entries:
        found = _NAME.fullmatch(name)
        module = modules.get(found["module"]) if found else None
        if found is None or module is None:
            raise _foreign(name, found, model)
        other = names.setdefault((module, found["side"]), name)
        if other != name:
            raise MalformedAdapter(f"{WEIGHTS}: tensors {brief(other)} and {brief(name)} are for the same place")
    return names


def _foreign(name: str, found: re.Match[str] | None, model: ModelSpec) -> MalformedAdapter | UnsupportedAdapter:
    is_deeper = found is not None and len(found["layer"]) < 9 and int(found["layer"]) >= model.num_layers
    if is_deeper:
        layers = f"this base has {model.num_layers} layers"
        return MalformedAdapter(
            f"{WEIGHTS}: tensor {brief(name)}, but {layers}; the adapter was trained for another base"
        )
    is_saved_whole = name.endswith(("lm_head.weight", "embed_tokens.weight"))
    advice = "train without it" + (", or save with save_embedding_layers=False" if is_saved_whole else "")
    return UnsupportedAdapter(
        f"{WEIGHTS}: tensor {brief(name)} is not lora_A or lora_B of {', '.join(TARGETS)}; {advice}"
    )


def _check(names: Names, entries: Mapping[str, TensorEntry], claimed: Mapping[Module, Claim], model: ModelSpec) -> None:
    """Refuse a file whose tensors are not exactly those that the config claims."""
    for module, claim in claimed.items():
        width_in, width_out = model.widths(module[1])
        for side, wanted in (("A", (claim.rank, width_in)), ("B", (width_out, claim.rank))):
            if (module, side) not in names:
                missing = f"lora_{side} of {module_name(*module)} is missing"
                raise MalformedAdapter(f"{WEIGHTS}: {missing}, though target_modules in {CONFIG} takes it in")
            name = names[module, side]
            got = entries[name].shape
            if got != wanted:
                hint = _hint(got, wanted, rank_axis="AB".index(side))
                raise MalformedAdapter(
                    f"{WEIGHTS}: tensor {brief(name)} has shape {list(got)}; want {list(wanted)}: {hint}"
                )
    unclaimed = [name for (module, _), name in names.items() if module not in claimed]
    if unclaimed:
        raise MalformedAdapter(
            f"{WEIGHTS}: tensor {brief(unclaimed[0])} is for a module that {CONFIG} does not take in"
        )


def _hint(got: tuple[int, ...], wanted: tuple[int, int], rank_axis: int) -> str:
    if got == wanted[::-1]:
        return "it is transposed, or lora_A and lora_B are swapped"
    if len(got) == 2 and got[rank_axis] == wanted[rank_axis]:
        return "the adapter was trained for another base"
    if len(got) == 2 and got[1 - rank_axis] == wanted[1 - rank_axis]:
        return f"r, or its rank_pattern, in {CONFIG} says rank {wanted[rank_axis]}"
    return "it is not of this base and rank"


def _hashed(raw: bytes, files: TensorFiles) -> tuple[dict[str, np.ndarray], Version]:
    """Every tensor, read once, and the version they and the config's bytes make."""
    digest = hashlib.sha256(len(raw).to_bytes(8, "little") + raw)
    tensors = {}
    for name, entry in sorted(files.entries.items()):
        values = tensors[name] = files.read(name)
        digest.update(json.dumps([name, entry.dtype, entry.shape]).encode() + b"\n")
        digest.update(values.view(np.uint8).data)
        if not np.isfinite(values).all():
            raise MalformedAdapter(f"{WEIGHTS}: tensor {brief(name)} has NaN or infinite values; train it again")
    return tensors, Version(digest.hexdigest())


def write(folder: Path, adapter: HostAdapter, base: str = "") -> None:
    """Write an adapter as a PEFT folder that `read` gives the same pages for; every layer gets the largest rank.

    `base` is what the folder calls its base model. Files of the same names are overwritten.
    """
    rank = adapter.spec.rank
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,  # the scale already lies in B
        "target_modules": adapter.spec.targets,
        "bias": "none",
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(dict(_named(adapter)), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _named(adapter: HostAdapter) -> Iterator[tuple[str, np.ndarray]]:
    dtype = adapter.a[adapter.spec.targets[0]].dtype
    for module, update in unpack(adapter).items():
        for side, values in (("A", update.a), ("B", update.b)):
            yield f"base_model.model.{module_name(*module)}.lora_{side}.weight", np.ascontiguousarray(values, dtype)
