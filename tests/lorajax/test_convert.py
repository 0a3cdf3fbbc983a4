"""`lorajax convert`: what it writes is the model that it read."""

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from checkpoints import base, tokenizer
from lorajax.cli import main
from tests import tiny_text
from tests.tiny import write_model


@pytest.fixture
def source(tmp_path):
    write_model(tmp_path / "source", "llama", seed=0)
    tiny_text.byte_level().save(str(tmp_path / "source" / "tokenizer.json"))
    return tmp_path / "source"


def convert(*args):
    return CliRunner().invoke(main, ["convert", *map(str, args)])


def arrays(path):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    return base.load(path, base.read_spec(path), lambda name: sharding, np.float32)


def test_converted_model_has_the_same_shape_and_weights(source, tmp_path):
    result = convert(source, tmp_path / "target", "--dtype", "float32")
    assert (result.exit_code, base.kind_of(tmp_path / "target")) == (0, "orbax")
    assert base.read_spec(tmp_path / "target") == base.read_spec(source)
    expected = arrays(source)
    for name, array in arrays(tmp_path / "target").items():
        np.testing.assert_array_equal(array, expected[name])


def test_converted_model_keeps_its_tokenizer(source, tmp_path):
    convert(source, tmp_path / "target")
    encoders = [tokenizer.load(path)[0] for path in (source, tmp_path / "target")]
    assert encoders[0].encode("the quick fox") == encoders[1].encode("the quick fox")


def test_taken_target_is_one_line_and_exit_1(source, tmp_path):
    result = convert(source, tmp_path)
    assert (result.exit_code, result.stderr.count("\n"), "already exists" in result.stderr) == (1, 1, True)


def test_what_is_no_model_is_one_line_and_exit_1(tmp_path):
    (tmp_path / "empty").mkdir()
    result = convert(tmp_path / "empty", tmp_path / "target")
    assert (result.exit_code, "config.json" in result.stderr) == (1, True)
