"""PEFT folders: what we read is what PEFT computes, and is what was registered."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from checkpoints import peft
from lorajax.adapter_pages import DTYPES, unpack
from lorajax.errors import CorruptAdapter
from lorajax.spec import TARGETS, Version
from tests.checkpoints.peft_folders import MODEL, PARENT, QUERY, QV, read, tensors_of, write

FIXTURES = Path(__file__).parent / "fixtures" / "peft"


def changed(folder):
    """The modules whose delta is not zero."""
    return {module for module, update in unpack(read(folder)).items() if (update.b @ update.a).any()}


def delta(folder, layer=0, target="q_proj"):
    update = unpack(read(folder))[layer, target]
    return update.b @ update.a


def plain_delta(tensors, name=QUERY):
    return tensors[f"{name}.lora_B.weight"].astype(np.float32) @ tensors[f"{name}.lora_A.weight"].astype(np.float32)


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()))
def test_deltas_are_those_of_peft(name):
    found = unpack(read(FIXTURES / name))
    with np.load(FIXTURES / "deltas.npz") as deltas:
        wanted = {key.removeprefix(f"{name}/"): deltas[key] for key in deltas.files if key.startswith(f"{name}/")}
    for (layer, target), update in found.items():
        value = wanted.pop(f"model.layers.{layer}.{PARENT[target]}.{target}", 0.0)
        np.testing.assert_allclose(update.b @ update.a, np.broadcast_to(value, MODEL.widths(target)[::-1]), atol=1e-6)
    assert not wanted


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        ({"target_modules": ["self_attn.q_proj"]}, [(0, "q_proj"), (1, "q_proj")]),
        ({"target_modules": ["model.layers.1.mlp.up_proj"]}, [(1, "up_proj")]),
        ({"target_modules": ["q_proj", "c_attn"]}, [(0, "q_proj"), (1, "q_proj")]),
        ({"target_modules": "ALL-linear"}, [(layer, target) for layer in (0, 1) for target in TARGETS]),
        ({"target_modules": r".*\.1\..*(gate|up)_proj"}, [(1, "gate_proj"), (1, "up_proj")]),
        ({"target_modules": ["k_proj"], "layers_to_transform": 1}, [(1, "k_proj")]),
        (
            {"target_modules": ["k_proj"], "layers_to_transform": [0], "layers_pattern": ["h", "layers"]},
            [(0, "k_proj")],
        ),
        ({"target_modules": ["k_proj"], "layers_to_transform": []}, [(0, "k_proj"), (1, "k_proj")]),
        ({"exclude_modules": ["layers.0.self_attn.q_proj", "v_proj"]}, [(1, "q_proj")]),
        ({"exclude_modules": r".*\.0\..*"}, [(1, "q_proj"), (1, "v_proj")]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_the_config_takes_in_the_modules_that_peft_would(tmp_path, config, modules):
    assert changed(write(tmp_path, config=config, tensors=tensors_of(modules))) == set(modules)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": -6.0}, -1.5),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"v_proj": 1, "q_proj": 6}}, 1.5),
        ({"alpha_pattern": {r"layers\.0\..*": 6, "q_proj": 1}}, 1.5),
        ({"alpha_pattern": {"proj": 6}}, 2.0),
        ({"r": 64, "rank_pattern": {"^model.+proj": 4}}, 2.0),
        ({"fan_in_fan_out": True, "base_model_name_or_path": "/home/someone/model"}, 2.0),
        ({"use_dora": False, "modules_to_save": None, "not_invented_yet": None, "layer_replication": []}, 2.0),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_the_scale_is_that_of_peft(tmp_path, config, scale):
    folder = write(tmp_path, config=config)
    np.testing.assert_allclose(delta(folder), scale * plain_delta(tensors_of(QV)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_tensors_of_every_served_dtype_are_read(tmp_path, dtype):
    tensors = tensors_of(QV, dtype=dtype)
    np.testing.assert_allclose(delta(write(tmp_path, tensors=tensors)), 2 * plain_delta(tensors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"), [("lora_A.weight", "lora_A.default.weight"), ("base_model.model.", "")], ids=["infix", "no prefix"]
)
def test_usual_spellings_of_names_are_read(tmp_path, old, new):
    tensors = {name.replace(old, new, 1): values for name, values in tensors_of(QV).items()}
    np.testing.assert_allclose(
        delta(write(tmp_path, tensors=tensors)), 2 * plain_delta(tensors_of(QV)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_pages_have_the_dtype_asked_for(tmp_path, dtype):
    assert peft.read(write(tmp_path), MODEL, DTYPES[dtype]).a["q_proj"].dtype == DTYPES[dtype]


def test_the_same_files_make_the_same_version(tmp_path):
    version = read(write(tmp_path)).spec.version
    assert read(write(tmp_path)).spec.version == version


def test_the_expected_version_is_read(tmp_path):
    version = read(write(tmp_path)).spec.version
    assert read(tmp_path, expect=version).spec.version == version


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write(folder, tensors={name: values + 1 for name, values in tensors_of(QV).items()}),
        lambda folder: write(folder, config={"lora_alpha": 9}),
        lambda folder: write(folder, config={"r": 0}),
        lambda folder: write(folder, config={"use_dora": True}),
        lambda folder: (folder / peft.WEIGHTS).unlink(),
    ],
    ids=["other values", "other alpha", "now malformed", "now unsupported", "gone"],
)
def test_a_folder_that_changed_after_it_was_registered_is_corrupt(tmp_path, change):
    version = read(write(tmp_path)).spec.version
    change(tmp_path)
    with pytest.raises(CorruptAdapter, match="changed after it was registered"):
        read(tmp_path, expect=Version(version))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_written_folder_gives_the_same_pages(tmp_path, dtype):
    adapter = peft.read(FIXTURES / "patterns", MODEL, DTYPES[dtype])
    peft.write(tmp_path / "out", adapter, base="tiny")
    again = peft.read(tmp_path / "out", MODEL, DTYPES[dtype])
    for target in adapter.spec.targets:
        np.testing.assert_array_equal(again.a[target], adapter.a[target])
        np.testing.assert_array_equal(again.b[target], adapter.b[target])
    assert again.spec.targets == adapter.spec.targets
