"""Hugging Face folders: config.json to spec, tensors to our tree, refusals by name."""

import json

import ml_dtypes
import numpy as np
import pytest

from checkpoints import hf, names
from lorajax.errors import MalformedCheckpoint, UnsupportedModel
from lorajax.spec import RopeSpec
from tests.checkpoints.base_models import (
    CONFIGS,
    LLAMA,
    assert_same,
    ours,
    tensors,
    write_config,
    write_folder,
    write_shards,
)

MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"]}


def spec_of(tmp_path, config):
    return hf.read_spec(write_config(tmp_path, config))


def rope_of(tmp_path, **settings):
    return spec_of(tmp_path, LLAMA | settings).rope


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_becomes_our_tree(tmp_path, family):
    theirs = tensors(family)
    folder = write_folder(tmp_path, CONFIGS[family], theirs)
    assert_same(dict(hf.read_weights(folder, hf.read_spec(folder), np.float32)), ours(theirs))


def test_tied_model_has_no_head(tmp_path):
    theirs = tensors("llama", tied=True)
    folder = write_folder(tmp_path, LLAMA | {"tie_word_embeddings": True}, theirs)
    assert_same(dict(hf.read_weights(folder, hf.read_spec(folder), np.float32)), ours(theirs))


def test_shards_are_one_model(tmp_path):
    theirs = tensors("llama")
    folder = write_shards(tmp_path, LLAMA, theirs)
    assert_same(dict(hf.read_weights(folder, hf.read_spec(folder), np.float32)), ours(theirs))


def test_weights_are_rounded_to_the_wanted_dtype(tmp_path):
    theirs = tensors("llama")
    folder = write_folder(tmp_path, LLAMA, theirs)
    wanted = {name: array.astype(ml_dtypes.bfloat16) for name, array in ours(theirs).items()}
    assert_same(dict(hf.read_weights(folder, hf.read_spec(folder), ml_dtypes.bfloat16)), wanted)


def test_weights_come_one_at_a_time(tmp_path):
    folder = write_folder(tmp_path, LLAMA, tensors("llama"))
    weights = hf.read_weights(folder, hf.read_spec(folder), np.float32)
    assert iter(weights) is weights


def test_old_rotary_buffers_are_ignored(tmp_path):
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    folder = write_folder(tmp_path, LLAMA, tensors("llama") | buffers)
    assert "embed" in dict(hf.read_weights(folder, hf.read_spec(folder), np.float32))


def test_head_equal_to_the_tied_embedding_is_ignored(tmp_path):
    theirs = tensors("llama", tied=True)
    head = {"lm_head.weight": theirs["model.embed_tokens.weight"]}
    folder = write_folder(tmp_path, LLAMA | {"tie_word_embeddings": True}, theirs | head)
    assert "head" not in dict(hf.read_weights(folder, hf.read_spec(folder), np.float32))


def test_head_stands_for_the_tied_embedding_where_only_it_was_written(tmp_path):
    theirs = tensors("llama", tied=True)
    renamed = {name.replace("model.embed_tokens", "lm_head"): array for name, array in theirs.items()}
    folder = write_folder(tmp_path, LLAMA | {"tie_word_embeddings": True}, renamed)
    assert_same(dict(hf.read_weights(folder, hf.read_spec(folder), np.float32)), ours(theirs))


def test_head_that_differs_from_the_tied_embedding_is_refused(tmp_path):
    folder = write_folder(tmp_path, LLAMA | {"tie_word_embeddings": True}, tensors("llama"))
    with pytest.raises(UnsupportedModel, match="tie_word_embeddings"):
        hf.read_weights(folder, hf.read_spec(folder), np.float32)


def test_missing_tensor_is_named(tmp_path):
    theirs = tensors("llama")
    del theirs["model.layers.1.mlp.up_proj.weight"]
    folder = write_folder(tmp_path, LLAMA, theirs)
    with pytest.raises(MalformedCheckpoint, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' is missing, 1 in all"):
        hf.read_weights(folder, hf.read_spec(folder), np.float32)


def test_extra_tensor_is_named(tmp_path):
    bias = {"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}
    folder = write_folder(tmp_path, LLAMA, tensors("llama") | bias)
    with pytest.raises(MalformedCheckpoint, match=r"q_proj\.bias' has no place"):
        hf.read_weights(folder, hf.read_spec(folder), np.float32)


def test_wrongly_shaped_tensor_is_named(tmp_path):
    theirs = tensors("llama")
    theirs["model.norm.weight"] = np.zeros(31, np.float32)
    folder = write_folder(tmp_path, LLAMA, theirs)
    with pytest.raises(MalformedCheckpoint, match=r"'model\.norm\.weight' has shape \[31\]; its settings want \[32\]"):
        hf.read_weights(folder, hf.read_spec(folder), np.float32)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_tensor_with_values_that_are_no_numbers_is_named(tmp_path, value):
    theirs = tensors("llama")
    theirs["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    folder = write_folder(tmp_path, LLAMA, theirs)
    with pytest.raises(MalformedCheckpoint, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' has NaN or infinite"):
        dict(hf.read_weights(folder, hf.read_spec(folder), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_in_every_dtype_values_that_are_no_numbers_are_found(dtype, value):
    largest = np.array([ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).min, 0.0], dtype)
    assert names.finite(largest, "w", "m") is largest
    with pytest.raises(MalformedCheckpoint, match="'w' has NaN or infinite"):
        names.finite(np.append(largest, np.asarray(value, dtype)), "w", "m")


def test_pickled_weights_are_refused_by_name(tmp_path):
    folder = write_config(tmp_path, LLAMA)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsupportedModel, match=r"pytorch_model\.bin is a pickle"):
        hf.read_weights(folder, hf.read_spec(folder), np.float32)


def test_folder_without_weights_says_what_was_looked_for(tmp_path):
    folder = write_config(tmp_path, LLAMA)
    with pytest.raises(MalformedCheckpoint, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        hf.read_weights(folder, hf.read_spec(folder), np.float32)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "", 3])
def test_index_cannot_name_files_elsewhere(tmp_path, name):
    folder = write_config(tmp_path, LLAMA)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(MalformedCheckpoint, match="is no name of a file beside it"):
        hf.read_weights(folder, hf.read_spec(folder), np.float32)


def test_spec_holds_the_shape_of_the_model(tmp_path):
    spec = spec_of(tmp_path, CONFIGS["qwen3"] | {"head_dim": 16, "tie_word_embeddings": True})
    assert (spec.family, spec.head_dim, spec.tied_embeddings, spec.group_size) == ("qwen3", 16, True, 2)
    assert (spec.max_model_len, spec.rms_norm_eps, spec.windows) == (512, 1e-5, (None, None))


@pytest.mark.parametrize(("family", "head_dim"), [("llama", 8), ("qwen2", 8), ("qwen3", 128)])
def test_absent_head_dim_is_the_architectures_own(tmp_path, family, head_dim):
    config = {key: value for key, value in CONFIGS[family].items() if key != "head_dim"}
    assert spec_of(tmp_path, config).head_dim == head_dim


def test_absent_kv_heads_of_a_llama_are_all_heads(tmp_path):
    config = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert spec_of(tmp_path, config).num_kv_heads == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", ["GPT2LMHeadModel"]),
        ("architectures", None),
        ("architectures", []),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
    ],
)
def test_setting_we_cannot_serve_exactly_is_named(tmp_path, key, value):
    with pytest.raises(UnsupportedModel, match=key):
        spec_of(tmp_path, LLAMA | {key: value})


@pytest.mark.parametrize("name", ["silu", "swish", None])
def test_every_name_of_silu_is_served(tmp_path, name):
    assert spec_of(tmp_path, LLAMA | {"hidden_act": name}) == spec_of(tmp_path, LLAMA)


@pytest.mark.parametrize("value", [None, "many", 0, -1, True, 2.0, [], {}])
def test_wrong_setting_is_named(tmp_path, value):
    with pytest.raises(MalformedCheckpoint, match=r"config\.json: num_hidden_layers is .*; it must be a whole number"):
        spec_of(tmp_path, LLAMA | {"num_hidden_layers": value})


def test_impossible_shape_is_refused(tmp_path):
    with pytest.raises(MalformedCheckpoint, match="num_kv_heads 3"):
        spec_of(tmp_path, LLAMA | {"num_key_value_heads": 3})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}'])
def test_config_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(MalformedCheckpoint, match=r"config\.json"):
        hf.read_spec(tmp_path)


def test_plain_rope_has_its_base_alone(tmp_path):
    assert rope_of(tmp_path, rope_theta=5e5) == RopeSpec(theta=5e5)


def test_rope_parameters_say_the_same_as_the_old_keys(tmp_path):
    old = rope_of(tmp_path, rope_theta=5e5, rope_scaling={"type": "linear", "factor": 4.0})
    new = rope_of(tmp_path, rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0})
    assert old == new == RopeSpec(theta=5e5, kind="linear", factor=4.0)


def test_llama3_rope_keeps_its_four_numbers(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.5,
        "high_freq_factor": 3.0,
        "original_max_position_embeddings": 128,
    }
    assert rope_of(tmp_path, rope_scaling=scaling) == RopeSpec(
        theta=1e4, kind="llama3", factor=32.0, original_max_len=128, low_freq_factor=1.5, high_freq_factor=3.0
    )


def test_yarn_rope_stretches_from_the_model_length_unless_it_says_otherwise(tmp_path):
    scaling = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.2, "beta_fast": 16}
    assert rope_of(tmp_path, rope_scaling=scaling) == RopeSpec(
        theta=1e4, kind="yarn", factor=4.0, original_max_len=512, beta_fast=16.0, attention_factor=1.2
    )


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "su", "proportional"])
def test_other_rope_is_refused_by_name(tmp_path, kind):
    with pytest.raises(UnsupportedModel, match=kind):
        rope_of(tmp_path, rope_scaling={"rope_type": kind, "factor": 2.0})


@pytest.mark.parametrize("key", ["mscale", "truncate", "partial_rotary_factor"])
def test_rope_setting_we_do_not_compute_is_named(tmp_path, key):
    with pytest.raises(UnsupportedModel, match=key):
        rope_of(tmp_path, rope_scaling={"rope_type": "yarn", "factor": 2.0, key: 0.5})


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (LLAMA | {"sliding_window": 16}, (None, None)),
        (MISTRAL | {"sliding_window": 16}, (16, 16)),
        (MISTRAL | {"sliding_window": None}, (None, None)),
        (MISTRAL, (4096, 4096)),
        (CONFIGS["qwen2"] | {"sliding_window": 16}, (None, None)),
        (CONFIGS["qwen2"] | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, (None, 16)),
        (CONFIGS["qwen3"] | {"use_sliding_window": True, "sliding_window": 16}, (None, None)),
        (
            CONFIGS["qwen3"]
            | {
                "use_sliding_window": True,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (16, None),
        ),
        (CONFIGS["qwen3"] | {"sliding_window": None, "layer_types": ["full_attention"] * 2}, (None, None)),
    ],
)
def test_windows_are_those_of_the_architecture(tmp_path, config, windows):
    assert spec_of(tmp_path, config).windows == windows


def test_unknown_layer_type_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="layer_types"):
        spec_of(tmp_path, CONFIGS["qwen3"] | {"layer_types": ["full_attention", "linear_attention"]})


@pytest.mark.parametrize(
    ("config_ids", "generation", "ids"),
    [
        (2, None, (2,)),
        ([2, 7, 2], None, (2, 7)),
        (None, None, ()),
        (2, {"eos_token_id": [5, 6]}, (5, 6)),
        (2, {}, (2,)),
    ],
)
def test_stop_ids_come_from_the_generation_config_first(tmp_path, config_ids, generation, ids):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert spec_of(tmp_path, LLAMA | {"eos_token_id": config_ids}).stop_token_ids == ids
