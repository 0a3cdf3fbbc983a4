"""Which module builds which family. Owns: that table. A new family is one file and one line here."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from lorajax.models import llama, qwen2, qwen3
from lorajax.models.decoder import Decoder
from lorajax.spec import ModelSpec

_BUILDERS: dict[str, Callable[[ModelSpec, jnp.dtype], Decoder]] = {
    "llama": llama.build,
    "qwen2": qwen2.build,
    "qwen3": qwen3.build,
}


def abstract(spec: ModelSpec, dtype: jnp.dtype) -> tuple[nnx.GraphDef[Decoder], dict[str, jax.ShapeDtypeStruct]]:
    """The static graph of a model, and the shape and dtype of each weight by its dotted name."""
    model = nnx.eval_shape(lambda: _BUILDERS[spec.family](spec, dtype))
    graph, state = nnx.split(model)
    return graph, {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def bind(graph: nnx.GraphDef[Decoder], weights: dict[str, jax.Array]) -> Decoder:
    """The model with these weights in place; cheap, so it is done inside the compiled step."""
    state: dict[tuple[int | str, ...], nnx.Param[jax.Array]] = {
        tuple(int(part) if part.isdigit() else part for part in name.split(".")): nnx.Param(value)
        for name, value in weights.items()
    }
    return nnx.merge(graph, nnx.from_flat_state(state))  # type: ignore[arg-type]  # its annotation admits no leaf
