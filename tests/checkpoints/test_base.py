"""The one door: three kinds of base model, one answer."""

import jax
import numpy as np
import pytest

from checkpoints import base, store
from lorajax.errors import UnsupportedModel
from tests.checkpoints.base_models import LLAMA, assert_same, ours, tensors, write_folder, write_gguf
from tests.checkpoints.test_store import shardings


def models(tmp_path):
    """The same weights as a folder, a GGUF file and our own checkpoint."""
    theirs = tensors("llama")
    folder = write_folder(tmp_path / "hf", LLAMA, theirs)
    weights = {name: jax.device_put(array) for name, array in ours(theirs).items()}
    store.save(tmp_path / "ours", base.read_spec(folder), weights)
    return {"hf": folder, "gguf": write_gguf(tmp_path / "m.gguf", "llama", theirs), "orbax": tmp_path / "ours"}


def test_kinds_are_told_apart(tmp_path):
    assert all(base.kind_of(path) == kind for kind, path in models(tmp_path).items())


def test_every_kind_gives_the_same_sharded_arrays(tmp_path):
    wanted = ours(tensors("llama"))
    for path in models(tmp_path).values():
        weights = base.load(path, base.read_spec(path), shardings(2, 2), np.float32)
        assert_same(weights, wanted)
        assert weights["layers.0.mlp.down"].sharding == shardings(2, 2)("layers.0.mlp.down")


def test_other_paths_say_what_was_looked_for(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UnsupportedModel, match=r"want a Hugging Face folder .* \.gguf file, .*lorajax convert"):
            base.kind_of(path)
