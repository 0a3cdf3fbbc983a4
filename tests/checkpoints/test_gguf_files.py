"""GGUF files: the same model as the Hugging Face folder it was converted from; broken files refused."""

import dataclasses
import struct

import gguf
import numpy as np
import pytest

from checkpoints import gguf_files, hf
from checkpoints.gguf_header import open_gguf
from lorajax.errors import MalformedCheckpoint, UnsupportedModel
from lorajax.spec import RopeSpec
from tests.checkpoints.base_models import CONFIGS, assert_same, ours, tensors, write_folder, write_gguf

LLAMA3 = RopeSpec(theta=5e5, kind="llama3", factor=32.0, original_max_len=8192)


def llama3_divisors(rope, head_dim):
    """Frequency by frequency, as the model card has it."""
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * np.pi * rope.theta ** (2 * pair / head_dim)
        if wavelength < rope.original_max_len / rope.high_freq_factor:
            divisors.append(1.0)
        elif wavelength > rope.original_max_len / rope.low_freq_factor:
            divisors.append(rope.factor)
        else:
            span = rope.high_freq_factor - rope.low_freq_factor
            smooth = (rope.original_max_len / wavelength - rope.low_freq_factor) / span
            divisors.append(1 / ((1 - smooth) / rope.factor + smooth))
    return np.array(divisors, np.float32)


def model(tmp_path, **options):
    return write_gguf(tmp_path / "m.gguf", "llama", tensors("llama"), **options)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_the_folder_it_was_converted_from(tmp_path, family, tied):
    theirs = tensors(family, tied=tied)
    path = write_gguf(tmp_path / "m.gguf", family, theirs)
    assert_same(dict(gguf_files.read_weights(path, gguf_files.read_spec(path), np.float32)), ours(theirs))


@pytest.mark.parametrize("family", CONFIGS)
def test_spec_is_that_of_the_folder_it_was_converted_from(tmp_path, family):
    theirs = tensors(family)
    folder = write_folder(tmp_path, CONFIGS[family], theirs)
    path = write_gguf(tmp_path / "m.gguf", family, theirs)
    assert gguf_files.read_spec(path) == dataclasses.replace(hf.read_spec(folder), stop_token_ids=(2, 5))


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1])
def test_quantised_weights_are_close(tmp_path, kind):
    path = model(tmp_path, quantisation=kind)
    got = dict(gguf_files.read_weights(path, gguf_files.read_spec(path), np.float32))
    step = 0.4 if kind == gguf.GGMLQuantizationType.Q4_1 else 0.05
    for name, array in ours(tensors("llama")).items():
        np.testing.assert_allclose(got[name], array, atol=step, err_msg=name)


def test_header_agrees_with_the_gguf_packages_own_reader(tmp_path):
    path = model(tmp_path, quantisation=gguf.GGMLQuantizationType.Q8_0)
    file, reader = open_gguf(path), gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            assert file.metadata[key] == pytest.approx(field.contents()) or file.metadata[key] == field.contents()
    for tensor in reader.tensors:
        np.testing.assert_array_equal(file.read(tensor.name), gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    assert len(file.tensors) == len(reader.tensors)


def test_numbers_are_the_decimals_that_were_meant(tmp_path):
    assert gguf_files.read_spec(model(tmp_path)).rms_norm_eps == 1e-5


def test_rope_factors_of_llama3_become_its_settings(tmp_path):
    factors = {"rope_freqs.weight": llama3_divisors(LLAMA3, 8)}
    assert gguf_files.read_spec(model(tmp_path, extra=factors, settings={"rope.freq_base": 5e5})).rope == LLAMA3


def test_llama3_factors_agree_with_the_slow_ones():
    np.testing.assert_allclose(gguf_files.llama3_factors(LLAMA3, 128), llama3_divisors(LLAMA3, 128), rtol=1e-6)


def test_other_rope_factors_are_refused(tmp_path):
    factors = {"rope_freqs.weight": np.array([1, 2, 3, 4], np.float32)}
    with pytest.raises(UnsupportedModel, match=r"rope_freqs\.weight"):
        gguf_files.read_spec(model(tmp_path, extra=factors))


@pytest.mark.parametrize(
    ("settings", "rope"),
    [
        ({"type": "none"}, RopeSpec(theta=10000.0)),
        ({"type": "linear", "factor": 4.0}, RopeSpec(theta=10000.0, kind="linear", factor=4.0)),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 128},
            RopeSpec(theta=10000.0, kind="yarn", factor=4.0, original_max_len=128),
        ),
    ],
)
def test_rope_scaling_is_read(tmp_path, settings, rope):
    path = model(tmp_path, settings={f"rope.scaling.{key}": value for key, value in settings.items()})
    assert gguf_files.read_spec(path).rope == rope


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.scaling.type", "longrope"),
        ("rope.scaling.attn_factor", 1.5),
        ("attention.sliding_window", 16),
        ("expert_count", 8),
        ("rope.dimension_count", 4),
    ],
)
def test_setting_we_cannot_serve_exactly_is_named(tmp_path, key, value):
    with pytest.raises(UnsupportedModel, match=key):
        gguf_files.read_spec(model(tmp_path, settings={key: value}))


def test_other_architecture_is_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedModel, match="gemma3"):
        gguf_files.read_spec(write_gguf(tmp_path / "m.gguf", "gemma3", {}))


def test_missing_tensor_is_named(tmp_path):
    theirs = tensors("llama")
    del theirs["model.layers.1.self_attn.k_proj.weight"]
    path = write_gguf(tmp_path / "m.gguf", "llama", theirs)
    with pytest.raises(MalformedCheckpoint, match=r"'blk\.1\.attn_k\.weight' is missing"):
        gguf_files.read_weights(path, gguf_files.read_spec(path), np.float32)


def test_tensor_with_values_that_are_no_numbers_is_named(tmp_path):
    theirs = tensors("llama")
    theirs["model.norm.weight"][5] = np.nan
    path = write_gguf(tmp_path / "m.gguf", "llama", theirs)
    with pytest.raises(MalformedCheckpoint, match=r"^m\.gguf: tensor 'output_norm\.weight' has NaN or infinite"):
        dict(gguf_files.read_weights(path, gguf_files.read_spec(path), np.float32))


def test_every_truncation_is_refused(tmp_path):
    path = model(tmp_path)
    whole = path.read_bytes()
    for length in [*range(0, 2000, 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(MalformedCheckpoint, match=r"m\.gguf"):
            open_gguf(path)


@pytest.mark.parametrize(
    "content",
    [
        b"nothing of the kind, but long enough",
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(64),
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 2**62),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 8, 2**62) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 9, 2**62) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"\xff", 99),
        b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 2**60, 0, 0) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 4, 99, 0) + bytes(64),
        b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 4, 2, 0) + bytes(64),
    ],
)
def test_hostile_header_is_refused(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(MalformedCheckpoint, match=r"^m\.gguf: "):
        open_gguf(tmp_path / "m.gguf")
