from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from lorajax.models.registry import abstract
from lorajax.packing import packed, widths
from pallas_kernels.ops import REFERENCE
from tests.tiny_engine import model


def test_packed_weights_are_those_of_a_model_with_its_own_head():
    spec = model("qwen2", "xla").spec
    assert spec.tied_embeddings
    _, wanted = abstract(spec, jnp.dtype("float32"))
    weights = {name: jnp.arange(leaf.size, dtype=jnp.float32).reshape(leaf.shape) for name, leaf in wanted.items()}
    untied, out = packed(spec, dict(weights), REFERENCE)
    _, now_wanted = abstract(untied, jnp.dtype("float32"))
    assert {name: array.shape for name, array in out.items()} == {name: leaf.shape for name, leaf in now_wanted.items()}
    np.testing.assert_array_equal(out["head"], weights["embed"].T)


def test_weights_are_let_go_as_they_are_packed():
    spec, held = model("qwen2", "xla").spec, []
    _, wanted = abstract(spec, jnp.dtype("float32"))
    weights = {name: jnp.zeros(leaf.shape) for name, leaf in wanted.items()}
    num_linear = 4 * spec.num_layers

    def pack(kernel):
        held.append(sum(name.endswith(("qkv", "out", "gate_up", "down")) for name in weights))
        return kernel

    packed(spec, weights, replace(REFERENCE, pack=pack))
    assert held == [num_linear, *reversed(range(num_linear))]
    assert not weights


def test_widths_are_those_of_the_kernels_that_are_packed():
    spec = model("qwen2", "xla").spec
    _, wanted = abstract(spec, jnp.dtype("float32"))
    layer = [wanted[f"layers.0.{name}"].shape for name in ("attn.qkv", "attn.out", "mlp.gate_up", "mlp.down")]
    flat = [(shape[0], int(np.prod(shape[1:]))) for shape in layer]
    assert widths(spec) == (*flat, (spec.hidden_size, spec.vocab_size))
