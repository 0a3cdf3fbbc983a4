"""Our own checkpoints: out and in, onto another sharding, and never half a model."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from checkpoints import hf, shapes, store
from lorajax.errors import MalformedCheckpoint
from tests.checkpoints.base_models import CONFIGS, LLAMA, assert_same, ours, tensors, write_config

SCALED = LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "eos_token_id": [2, 3]}


def shardings(rows, columns):
    """Every matrix split into so many parts along its first two axes."""
    mesh = jax.make_mesh((rows, columns), ("row", "column"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    return lambda name: NamedSharding(mesh, PartitionSpec() if "norm" in name else PartitionSpec("row", "column"))


def saved(tmp_path, config=LLAMA):
    spec = hf.read_spec(write_config(tmp_path / "config", config))
    sharding = shardings(4, 1)
    weights = {name: jax.device_put(array, sharding(name)) for name, array in ours(tensors("llama")).items()}
    store.save(tmp_path / "model", spec, weights)
    return tmp_path / "model", spec


@pytest.mark.parametrize("config", [LLAMA, SCALED, CONFIGS["qwen3"]])
def test_spec_comes_back_equal(tmp_path, config):
    path, spec = saved(tmp_path, config=config)
    assert shapes.read_stored_spec(path) == spec


def test_weights_come_back_bit_for_bit(tmp_path):
    path, _ = saved(tmp_path)
    assert_same(store.restore(path, shardings(4, 1), np.float32), ours(tensors("llama")))


def test_weights_come_back_on_another_sharding(tmp_path):
    path, _ = saved(tmp_path)
    weights = store.restore(path, shardings(2, 2), np.float32)
    assert_same(weights, ours(tensors("llama")))
    assert weights["embed"].sharding == shardings(2, 2)("embed")
    assert weights["embed"].addressable_shards[0].data.shape == (24, 16)


def test_weights_come_back_in_the_wanted_dtype(tmp_path):
    path, _ = saved(tmp_path)
    weights = store.restore(path, shardings(4, 1), jax.numpy.bfloat16)
    assert {array.dtype for array in weights.values()} == {jax.numpy.dtype("bfloat16")}


def test_taken_path_is_refused(tmp_path):
    path, spec = saved(tmp_path)
    with pytest.raises(ValueError, match="already exists; name a new folder"):
        store.save(path, spec, {})


def test_failed_save_leaves_no_model(tmp_path):
    spec = hf.read_spec(write_config(tmp_path / "config", LLAMA))
    gone = jax.numpy.zeros(4)
    gone.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        store.save(tmp_path / "model", spec, {"embed": gone})
    assert not (tmp_path / "model").exists()
    for left in tmp_path.glob("model*"):
        with pytest.raises(MalformedCheckpoint):
            shapes.read_stored_spec(left)


def test_folder_without_its_commit_is_refused(tmp_path):
    path, _ = saved(tmp_path)
    (path / shapes.METADATA).write_text('{"commit_timestamp_nsecs": null}')
    with pytest.raises(MalformedCheckpoint, match="its save never ended"):
        store.restore(path, shardings(4, 1), np.float32)


def test_spec_of_another_program_is_refused(tmp_path):
    path, _ = saved(tmp_path)
    (path / "spec" / "metadata").write_text('{"model": "gpt"}')
    with pytest.raises(MalformedCheckpoint, match="not one of ours"):
        shapes.read_stored_spec(path)


def test_arrays_that_are_not_those_of_the_spec_are_named(tmp_path):
    spec = hf.read_spec(write_config(tmp_path / "config", LLAMA))
    store.save(tmp_path / "model", spec, {"embed": jax.numpy.zeros((48, 32))})
    with pytest.raises(MalformedCheckpoint, match=r"'layers\.0\.attn_norm' is missing"):
        store.restore(tmp_path / "model", shardings(4, 1), np.float32)
