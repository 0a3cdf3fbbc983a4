"""Base models in our own format, by Orbax: a ModelSpec and the sharded arrays. Owns: what lies in the folder.

Does not: decide shardings. A folder is whole or refused: Orbax writes beside it and renames it at the end.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy.typing as npt
import orbax.checkpoint as ocp

from checkpoints import names
from checkpoints.shapes import read_stored_spec
from lorajax.spec import ModelSpec


def save(path: Path, spec: ModelSpec, weights: Mapping[str, jax.Array]) -> None:
    """Write a model to a new folder. Every process of the arrays' mesh calls it and writes its own shards.

    Raises: ValueError if the path is taken.
    """
    if path.exists():
        raise ValueError(f"{path} already exists; name a new folder")
    items = {"spec": ocp.args.JsonSave(dataclasses.asdict(spec)), "weights": ocp.args.PyTreeSave(dict(weights))}
    with _checkpointer() as checkpointer:
        checkpointer.save(path.absolute(), ocp.args.Composite(**items))


def restore(
    path: Path, shardings: Callable[[str], jax.sharding.Sharding], dtype: npt.DTypeLike
) -> dict[str, jax.Array]:
    """Arrays by name, each straight onto its sharding and cast to `dtype`; a process reads only its own shards.

    The sharding may differ from the one that was saved.
    Raises: MalformedCheckpoint as `read_stored_spec` does, or if the arrays are not those of the spec.
    """
    wanted = {weight.name: weight.shape for weight in names.weights(read_stored_spec(path))}
    with _checkpointer() as checkpointer:
        stored = checkpointer.metadata(path.absolute()).item_metadata["weights"].tree
        names.check(wanted, {name: tuple(array.shape) for name, array in stored.items()}, (), path.name)
        restore_args = {name: ocp.ArrayRestoreArgs(sharding=shardings(name), dtype=dtype) for name in wanted}
        items = {"weights": ocp.args.PyTreeRestore(restore_args=restore_args)}
        weights: dict[str, jax.Array] = checkpointer.restore(path.absolute(), ocp.args.Composite(**items))["weights"]
    return weights


def _checkpointer() -> ocp.Checkpointer:
    handlers = {"spec": ocp.JsonCheckpointHandler(), "weights": ocp.PyTreeCheckpointHandler()}
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
