"""A base model from one folder or file into another. Owns: the order of reading and writing. Does not: know formats."""

from pathlib import Path

import jax
import jax.numpy as jnp

from checkpoints import base, store, tokenizer


def convert(source: Path, target: Path, dtype: str) -> int:
    """Write the model `source` to the new Orbax folder `target`, with its tokenizer; the bytes of its weights.

    Raises: UnsupportedModel or MalformedCheckpoint for what cannot be read exactly, ValueError if `target` exists.
    """
    spec = base.read_spec(source)
    encoder, template = tokenizer.load(source)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    weights = base.load(source, spec, lambda name: sharding, jnp.dtype(dtype))
    store.save(target, spec, weights)
    tokenizer.save(target, encoder, template)
    return sum(array.nbytes for array in weights.values())
