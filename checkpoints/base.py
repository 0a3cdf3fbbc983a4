"""The one door to base models on disk. Owns: telling the kinds apart, placing arrays on the mesh as they are read.

Does not: know any format; that is `hf`, `gguf_files` and `store`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import numpy.typing as npt

from checkpoints import gguf_files, hf, store
from lorajax.errors import UnsupportedModel
from lorajax.spec import ModelSpec


def kind_of(path: Path) -> Literal["hf", "gguf", "orbax"]:
    """Which kind of base model lies at a path.

    Raises: UnsupportedModel saying what was looked for.
    """
    if path.is_file() and path.suffix == ".gguf":
        return "gguf"
    if (path / "config.json").is_file():
        return "hf"
    if (path / store.METADATA).is_file():
        return "orbax"
    state = "is no model" if path.exists() else "does not exist"
    raise UnsupportedModel(
        f"{path} {state}; want a Hugging Face folder (with config.json), a .gguf file, "
        f"or a folder written by `lorajax convert` (with {store.METADATA})"
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
            return store.read_spec(path)


def load(
    path: Path, spec: ModelSpec, shardings: Callable[[str], jax.sharding.Sharding], dtype: npt.DTypeLike
) -> dict[str, jax.Array]:
    """Arrays of the base model by name, cast to `dtype`, each put under its sharding as soon as it is read.

    Host memory: about one array above what the devices of this process hold. Every process of the mesh calls it.
    Raises: UnsupportedModel or MalformedCheckpoint, one line that names the tensor.
    """
    match kind_of(path):
        case "hf":
            weights = hf.read_weights(path, spec, dtype)
        case "gguf":
            weights = gguf_files.read_weights(path, spec, dtype)
        case "orbax":
            return store.restore(path, shardings, dtype)
    return {name: _place(array, shardings(name)) for name, array in weights}


def _place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
