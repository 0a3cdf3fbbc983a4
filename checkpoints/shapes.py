"""Base models on disk without their weights. Owns: telling the kinds apart, and the shape of each. Needs no JAX.

Does not: read arrays (`base` does), or know the formats of others; that is `hf` and `gguf_files`.
"""

from pathlib import Path
from typing import Any, Final, Literal

from checkpoints import gguf_files, hf
from checkpoints.fields import read_fields
from lorajax.errors import MalformedCheckpoint, UnsupportedModel
from lorajax.spec import ModelSpec, RopeSpec

METADATA: Final = "_CHECKPOINT_METADATA"
"""File that Orbax writes in every checkpoint; it holds the time of the commit once all the rest is written."""


def kind_of(path: Path) -> Literal["hf", "gguf", "orbax"]:
    """Which kind of base model lies at a path.

    Raises: UnsupportedModel saying what was looked for.
    """
    if path.is_file() and path.suffix == ".gguf":
        return "gguf"
    if (path / "config.json").is_file():
        return "hf"
    if (path / METADATA).is_file():
        return "orbax"
    state = "is no model" if path.exists() else "does not exist"
    raise UnsupportedModel(
        f"{path} {state}; want a Hugging Face folder (with config.json), a .gguf file, "
        f"or a folder written by `lorajax convert` (with {METADATA})"
    )


def read_spec(path: Path) -> ModelSpec:
    """Shape of the base model at a path; no weights are read.

    Raises: UnsupportedModel or MalformedCheckpoint, one line that names the key.
    """
    match kind_of(path):
        case "hf":
            return hf.read_spec(path)
        case "gguf":
            return gguf_files.read_spec(path)
        case "orbax":
            return read_stored_spec(path)


def read_stored_spec(path: Path) -> ModelSpec:
    """Shape of the model in a folder that `store` wrote.

    Raises: MalformedCheckpoint if the save never ended, or the spec is not one of ours.
    """
    metadata = read_fields(path / METADATA)
    if metadata.values.get("commit_timestamp_nsecs") is None:
        raise MalformedCheckpoint(f"{path.name}: its save never ended; delete it and save the model again")
    values: dict[str, Any] = dict(read_fields(path / "spec" / "metadata").values)  # JSON: the records check it
    try:
        rope = RopeSpec(**values.pop("rope"))
        windows, stops = tuple(values.pop("windows")), tuple(values.pop("stop_token_ids"))
        return ModelSpec(rope=rope, windows=windows, stop_token_ids=stops, **values)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedCheckpoint(f"{path.name}: its spec is not one of ours ({error})") from None
