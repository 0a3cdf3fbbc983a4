"""The one door to base models on disk. Owns: placing arrays on the mesh as they are read.

Does not: tell the kinds apart (`shapes` does) or know any format; that is `hf`, `gguf_files` and `store`.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from checkpoints import gguf_files, hf, store
from checkpoints.shapes import kind_of, read_spec
from lorajax.spec import ModelSpec

__all__ = ["check", "kind_of", "load", "read_spec"]


def check(path: Path, spec: ModelSpec) -> None:
    """Look whether all tensors that `load` wants are there, in the shapes it wants; values are hardly read.

    Raises: what `load` raises, but for wrong values. Of Orbax folders nothing is checked: it alone can look into them.
    """
    match kind_of(path):
        case "hf":
            hf.read_weights(path, spec, np.float32)
        case "gguf":
            gguf_files.read_weights(path, spec, np.float32)
        case "orbax":
            pass


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
