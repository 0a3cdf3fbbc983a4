"""The whole step that a GPU is timed on, lowered for one where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.kernels.attention_task import decode_work
from benchmarks.kernels.cases import CASES
from benchmarks.kernels.ours import work_of
from benchmarks.kernels.step_tasks import Model, llama_3_8b
from lorajax.models.registry import abstract
from tests.pallas_kernels.interpreted import MESH

CASE = next(case for case in CASES if case.name == "decode-mixed")


# The output and down projections have one width out, so they share an expand.
@pytest.mark.parametrize(("has_adapters", "num_kernels"), [(False, 1), (True, 1 + 4 + 3)], ids=["base", "adapters"])
def test_layer_is_attention_and_a_shrink_and_an_expand_for_each_group_of_linears(has_adapters, num_kernels):
    model = Model(spec=llama_3_8b(1))
    _, weights = abstract(model.spec, jnp.dtype(jnp.bfloat16))
    attention = decode_work(CASE.num_tokens, 128, 64, model.spec.max_model_len, seed=1)
    adapters = (jax.eval_shape(model.pools), work_of(CASE, 0)) if has_adapters else ()
    given = (weights, jax.eval_shape(model.kv), np.zeros(CASE.num_tokens, np.int32), attention, *adapters)
    with jax.sharding.use_abstract_mesh(MESH):
        text = model.step().trace(*given).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call @mosaic_gpu") == num_kernels
