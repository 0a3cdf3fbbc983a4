"""PEFT folders that cannot be served exactly are refused, each in one line that says what to change."""

import numpy as np
import pytest

from checkpoints import peft
from lorajax.errors import MalformedAdapter, UnsupportedAdapter
from tests.checkpoints.peft_folders import QUERY, QV, VALUE, read, tensors_of, write


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 2]]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("alora_invocation_tokens", [5]),
        ("velora_config", {"num_groups": 2}),
        ("megatron_config", {"a": 1}),
        ("kasa_config", {"beta": 1.0}),
        ("target_parameters", ["mlp.experts"]),
        ("not_invented_yet", 3),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "loftq"),
        ("r", 257),
        ("target_modules", ["q_proj", "lm_head"]),
        ("target_modules", ["embed_tokens"]),
        ("target_modules", ["query_key_value"]),
        ("target_modules", []),
        ("target_modules", "q_proj"),
        ("target_modules", "(q_proj"),
        ("exclude_modules", r"(.)\1"),
    ],
)
def test_what_cannot_be_served_exactly_is_refused_by_key_and_value(tmp_path, key, value):
    with pytest.raises(UnsupportedAdapter) as refused:
        read(write(tmp_path, config={key: value}))
    message = str(refused.value)
    assert key in message
    assert repr(value) in message
    assert "\n" not in message


def test_a_rank_pattern_above_the_largest_rank_is_refused_by_its_key(tmp_path):
    with pytest.raises(
        UnsupportedAdapter, match="rank_pattern: q_proj is 1000; the largest rank that is served is 256"
    ):
        read(write(tmp_path, config={"rank_pattern": {"q_proj": 1000}}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0),
        ("r", -1),
        ("r", 1e9),
        ("r", 4.5),
        ("r", "4"),
        ("r", True),
        ("lora_alpha", "8"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", 10**400),
        ("use_rslora", 1),
        ("rank_pattern", [4]),
        ("rank_pattern", {"q_proj": 0}),
        ("alpha_pattern", {"q_proj": None}),
        ("target_modules", None),
        ("target_modules", 7),
        ("target_modules", ["q_proj", 7]),
        ("exclude_modules", {"q_proj": 1}),
        ("layers_to_transform", ["0"]),
        ("layers_to_transform", [-1]),
        ("layers_pattern", "layers"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_malformed(tmp_path, key, value):
    with pytest.raises(MalformedAdapter, match=key if not isinstance(value, dict) else "q_proj") as refused:
        read(write(tmp_path, config={key: value}))
    assert "\n" not in str(refused.value)


def test_layers_to_transform_beside_a_regular_expression_is_malformed(tmp_path):
    with pytest.raises(MalformedAdapter, match=r"target_modules .* must be a list"):
        read(write(tmp_path, config={"target_modules": ".*q_proj", "layers_to_transform": [0]}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "must be an object"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ('{"r": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
        ('{"r": 1, "r": 2}', "twice"),
        ("\xff", "not JSON"),
        (" " * (2**20 + 1), "larger than"),
    ],
    ids=["empty", "cut short", "list", "deep list", "deep value", "same key twice", "not UTF-8", "huge"],
)
def test_a_config_that_is_no_json_object_is_malformed(tmp_path, text, reason):
    (write(tmp_path) / peft.CONFIG).write_text(text, "latin-1")
    with pytest.raises(MalformedAdapter, match=reason):
        read(tmp_path)


@pytest.mark.parametrize("name", [peft.CONFIG, peft.WEIGHTS])
def test_a_missing_file_is_named(tmp_path, name):
    (write(tmp_path) / name).unlink()
    with pytest.raises(MalformedAdapter, match=f"{name}: no such file"):
        read(tmp_path)


def test_a_folder_in_the_folder_that_is_an_adapter_is_named(tmp_path):
    (tmp_path / "sql").mkdir()
    write(tmp_path / "sql")
    with pytest.raises(MalformedAdapter, match=f"{peft.CONFIG}: it is in {tmp_path.name}/sql; name that folder"):
        read(tmp_path)


def test_a_pickle_is_refused_unopened(tmp_path):
    (write(tmp_path) / peft.WEIGHTS).unlink()
    (tmp_path / "adapter_model.bin").mkdir()  # opening it would fail in another way
    with pytest.raises(MalformedAdapter, match=r"not opened; save the adapter as adapter_model\.safetensors"):
        read(tmp_path)


def without(name):
    return lambda tensors: tensors.pop(name)


def replaced(name, values):
    return lambda tensors: tensors.update({name: values})


def swap(tensors):
    a, b = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
    tensors[a], tensors[b] = tensors[b], tensors[a]


NOT_A_NUMBER = np.full((4, 32), np.nan, np.float32)
INFINITE = np.full((16, 4), -np.inf, np.float32)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (without(f"{VALUE}.lora_A.weight"), r"lora_A of model.layers.1.self_attn.v_proj is missing"),
        (without(f"{QUERY}.lora_B.weight"), r"lora_B of model.layers.0.self_attn.q_proj is missing"),
        (swap, r"has shape \[32, 4\]; want \[4, 32\]: it is transposed, or lora_A and lora_B are swapped"),
        (
            replaced(f"{VALUE}.lora_B.weight", np.ones((4, 16), np.float32)),
            r"\[4, 16\]; want \[16, 4\]: it is transposed",
        ),
        (replaced(f"{QUERY}.lora_A.weight", np.ones((4, 64), np.float32)), r"\[4, 32\]: .* trained for another base"),
        (replaced(f"{VALUE}.lora_B.weight", np.ones((32, 4), np.float32)), r"\[16, 4\]: .* trained for another base"),
        (replaced(f"{QUERY}.lora_A.weight", np.ones((2, 32), np.float32)), r"adapter_config.json says rank 4"),
        (replaced(f"{QUERY}.lora_A.weight", np.ones(128, np.float32)), r"not of this base and rank"),
        (replaced(f"{QUERY}.lora_A.weight", np.ones((4, 32))), r"dtype 'F64'"),
        (replaced(f"{QUERY}.lora_A.weight", np.ones((4, 32), np.int8)), r"dtype 'I8'"),
        (replaced(f"{QUERY}.lora_A.weight", NOT_A_NUMBER), rf"{QUERY}.lora_A.weight' has NaN"),
        (replaced(f"{VALUE}.lora_B.weight", INFINITE), rf"{VALUE}.lora_B.weight' has NaN or inf"),
        (lambda tensors: tensors.update(tensors_of([(0, "k_proj")])), r"k_proj.* does not take in"),
        (replaced(f"{QUERY}.lora_A.default.weight", np.ones((4, 32), np.float32)), r"for the same place"),
        (replaced(f"{QUERY.replace('.0.', '.7.')}.lora_A.weight", np.ones((4, 32), np.float32)), r"has 2 layers"),
    ],
    ids=[
        *("A missing", "B missing", "A and B swapped", "transposed", "other hidden size", "other output width"),
        *("other rank than the config", "one axis", "float64", "int8", "NaN", "infinite", "module not in the config"),
        *("same place twice", "more layers"),
    ],
)
def test_tensors_that_are_not_what_the_config_claims_are_malformed(tmp_path, harm, reason):
    tensors = tensors_of(QV)
    harm(tensors)
    with pytest.raises(MalformedAdapter, match=reason):
        read(write(tmp_path, tensors=tensors))


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.score.weight",
        f"{QUERY}.lora_magnitude_vector",
        f"{QUERY}.lora_B.bias",
        f"{QUERY.replace('q_proj', 'c_attn')}.lora_A.weight",
        f"{QUERY.replace('self_attn', 'mlp')}.lora_A.weight",
    ],
)
def test_a_tensor_that_is_not_lora_of_a_served_layer_is_refused_by_name(tmp_path, name):
    with pytest.raises(UnsupportedAdapter, match="train without it") as refused:
        read(write(tmp_path, tensors=tensors_of(QV) | {name: np.ones((4, 32), np.float32)}))
    assert name in str(refused.value)


def test_a_saved_embedding_of_the_bases_own_can_be_left_out_when_saving(tmp_path):
    whole = {"base_model.model.lm_head.weight": np.ones((16, 32), np.float32)}
    with pytest.raises(UnsupportedAdapter, match="save_embedding_layers=False"):
        read(write(tmp_path, tensors=tensors_of(QV) | whole))


def test_a_truncated_tensor_file_is_malformed(tmp_path):
    path = write(tmp_path) / peft.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MalformedAdapter, match="truncated"):
        read(tmp_path)
