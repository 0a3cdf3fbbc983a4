"""Tokenizers and chat templates as files. Owns: reading them from Hugging Face folders and GGUF, and writing folders.

Does not: encode (`lorajax.text`) or render (`lorajax.chat`). SentencePiece `.model` files are not read.
A `tokenizer.json` is followed as it stands. transformers 5 rebuilds that of a `LlamaTokenizer` from its vocabulary
instead, which differs where text begins with spaces and after special tokens.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from checkpoints.fields import Fields, check_regular, read_fields
from checkpoints.gguf_header import open_gguf
from lorajax.chat import ChatTemplate, NoChatTemplate
from lorajax.errors import MalformedCheckpoint, UnsupportedModel
from lorajax.text import Tokenizer

type Clock = Callable[[str], str]
"""Today's date and time in the `strftime` format that a chat template asks for."""

_NAMED_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""What templates and Hugging Face call a token: what `tokenizer.ggml.*_token_id` calls it."""

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""What `tokenizer_config.json` says of an added token beside its content."""

_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_SPLIT = _QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

_CONTROL, _USER_DEFINED = 3, 4
"""`tokenizer.ggml.token_type` of special tokens, and of tokens found whole in any text."""


def load(model_path: Path, *, strftime_now: Clock = time.strftime) -> tuple[Tokenizer, ChatTemplate | NoChatTemplate]:
    """The tokenizer and chat template of a GGUF file, or of a folder that holds a `tokenizer.json` or one GGUF file.

    Raises: UnsupportedModel, naming the file or key, if there is none or it cannot be reproduced exactly;
        MalformedCheckpoint, naming the file and key, if it is broken.
    """
    if os.path.isfile(model_path / "tokenizer.json"):
        return _load_folder(model_path, strftime_now)
    files = sorted(model_path.glob("*.gguf")) if os.path.isdir(model_path) else [model_path]
    if len(files) != 1 or files[0].suffix != ".gguf" or not os.path.isfile(files[0]):
        raise UnsupportedModel(f"{model_path} has no tokenizer: wanted a folder with tokenizer.json, or one .gguf file")
    return _load_gguf(files[0], strftime_now)


def save(folder: Path, tokenizer: Tokenizer, template: ChatTemplate | NoChatTemplate) -> None:
    """Write what `load` reads: `tokenizer.json`, `tokenizer_config.json` and any template as `chat_template.jinja`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    named: Mapping[str, str] = {}
    if isinstance(template, ChatTemplate):
        named = template.variables
        (folder / "chat_template.jinja").write_text(template.source, encoding="utf-8", newline="")
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(named), indent=2), encoding="utf-8")


def _load_folder(folder: Path, strftime_now: Clock) -> tuple[Tokenizer, ChatTemplate | NoChatTemplate]:
    check_regular(folder / "tokenizer.json")
    try:
        inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise UnsupportedModel(f"{folder / 'tokenizer.json'} cannot be read: {error}") from None
    config = _settings(folder)
    named = {name: token for name in _NAMED_TOKENS if (token := _content(config, name))}
    _add_tokens(inner, config, named)
    if config.values.get("add_bos_token") is not None:
        _set_bos(inner, named.get("bos_token") if config.flag("add_bos_token", default=False) else None)
    return _with_template(inner, named, _template_source(folder, config), strftime_now)


def _settings(folder: Path) -> Fields:
    """`tokenizer_config.json`; before it listed added tokens, a file of their own named the special ones."""
    path, older = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    config = read_fields(path) if os.path.isfile(path) else Fields(source=path.name, values={})
    if "added_tokens_decoder" in config.values or not os.path.isfile(older):
        return config
    return replace(config, values={**config.values, **read_fields(older).values})


def _with_template(
    inner: tokenizers.Tokenizer, named: Mapping[str, str], source: str | None, strftime_now: Clock
) -> tuple[Tokenizer, ChatTemplate | NoChatTemplate]:
    tokenizer = Tokenizer(inner)
    if source is None:
        return tokenizer, NoChatTemplate()
    control = sorted(tokenizer.special_tokens.values())
    return tokenizer, ChatTemplate(source, variables=named, control_tokens=control, strftime_now=strftime_now)


def _content(config: Fields, key: str) -> str:
    """A token written as a string, or as an object that holds it; empty where the key is absent."""
    if isinstance(config.values.get(key), dict):
        return config.inner(key).text("content")
    return config.text(key, "")


def _add_tokens(inner: tokenizers.Tokenizer, config: Fields, named: Mapping[str, str]) -> None:
    """Tokens that only `tokenizer_config.json` knows, in the order of their ids, then its named special tokens."""
    listed = config.inner("added_tokens_decoder")
    if not all(id.isdecimal() and len(id) < 10 for id in listed.values):
        raise config.wrong("added_tokens_decoder", "an object of tokens by their ids")
    known = inner.get_added_tokens_decoder()
    for id in sorted(listed.values, key=int):
        added = _added_token(listed.inner(id))
        if int(id) not in known or known[int(id)].special != added.special:
            (inner.add_special_tokens if added.special else inner.add_tokens)([added])
    special = {token.content for token in inner.get_added_tokens_decoder().values() if token.special}
    others = config.listed("additional_special_tokens")
    extra = [_content(others, place) for place in others.values]
    missing = [AddedToken(text, normalized=False) for text in (*named.values(), *extra) if text not in special]
    inner.add_special_tokens(missing)


def _added_token(token: Fields) -> AddedToken:
    flags = {name: token.flag(name, default=False) for name in _FLAGS if token.values.get(name) is not None}
    return AddedToken(token.text("content"), **flags)


def _template_source(folder: Path, config: Fields) -> str | None:
    file = folder / "chat_template.jinja"
    if os.path.isfile(file):
        check_regular(file)
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise MalformedCheckpoint(f"{file.name}: not UTF-8 ({error})") from None
    if isinstance(config.values.get("chat_template"), list):  # several, by name
        listed = config.listed("chat_template")
        entries = [listed.inner(place) for place in listed.values]
        return {entry.text("name"): entry.text("template") for entry in entries}.get("default")
    return _optional_text(config, "chat_template")


def _optional_text(config: Fields, key: str) -> str | None:
    return None if config.values.get(key) is None else config.text(key)


def _set_bos(inner: tokenizers.Tokenizer, bos: str | None) -> None:
    """Put `bos`, or nothing, before every encoded text."""
    special = [] if bos is None else [(bos, inner.token_to_id(bos))]
    prefix = [] if bos is None else [bos]
    inner.post_processor = processors.TemplateProcessing(single=[*prefix, "$A"], special_tokens=special)


def _load_gguf(path: Path, strftime_now: Clock) -> tuple[Tokenizer, ChatTemplate | NoChatTemplate]:
    config = Fields(source=path.name, values=open_gguf(path).metadata)
    inner = _gguf_bpe(config)
    ids = {name: f"tokenizer.ggml.{key}_token_id" for name, key in _NAMED_TOKENS.items()}
    named = {name: _token_of(config, key) for name, key in ids.items() if config.values.get(key) is not None}
    if config.flag("tokenizer.ggml.add_bos_token", default=_pre(config) == "llama-bpe"):
        _set_bos(inner, named.get("bos_token"))
    return _with_template(inner, named, _optional_text(config, "tokenizer.chat_template"), strftime_now)


def _token_of(config: Fields, key: str) -> str:
    """The token whose id is under a key."""
    tokens, id = config.texts("tokenizer.ggml.tokens"), config.whole(key, low=0)
    if id >= len(tokens):
        raise config.wrong(key, f"the id of one of its {len(tokens)} tokens")
    return tokens[id]


def _gguf_bpe(config: Fields) -> tokenizers.Tokenizer:
    if (model := config.text("tokenizer.ggml.model")) != "gpt2":
        raise UnsupportedModel(
            f"{config.source}: tokenizer.ggml.model is {model!r}; "
            "only gpt2 (byte-level BPE) is read from GGUF: use the Hugging Face folder"
        )
    pre = _pre(config)
    tokens = config.texts("tokenizer.ggml.tokens")
    inner = tokenizers.Tokenizer(_bpe(config, tokens, ignore_merges=pre == "llama-bpe"))
    inner.normalizer = normalizers.NFC() if pre == "qwen2" else None
    inner.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    inner.decoder = decoders.ByteLevel()
    types = list(zip(tokens, config.whole_numbers("tokenizer.ggml.token_type"), strict=False))
    inner.add_special_tokens([AddedToken(token, normalized=False) for token, type in types if type == _CONTROL])
    inner.add_tokens([AddedToken(token, normalized=False) for token, type in types if type == _USER_DEFINED])
    return inner


def _bpe(config: Fields, tokens: Sequence[str], *, ignore_merges: bool) -> models.BPE:
    vocab = {token: id for id, token in enumerate(tokens)}
    halves = (merge.partition(" ") for merge in config.texts("tokenizer.ggml.merges"))
    merges = [(left, right) for left, _, right in halves]
    try:
        return models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges)
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise MalformedCheckpoint(f"{config.source}: tokenizer.ggml.merges cannot be used: {error}") from None


def _pre(config: Fields) -> str:
    pre = config.text("tokenizer.ggml.pre", "default")
    if pre not in _PRE_TOKENIZERS:
        raise UnsupportedModel(
            f"{config.source}: tokenizer.ggml.pre is {pre!r}; "
            f"wanted one of {', '.join(_PRE_TOKENIZERS)}: use the Hugging Face folder"
        )
    return pre


def _plain_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _digits_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _plain_pre_tokenizer()])


def _split_pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_PRE_TOKENIZERS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "smollm": _digits_pre_tokenizer,
    "qwen2": lambda: _split_pre_tokenizer(_QWEN2_SPLIT),
    "llama-bpe": lambda: _split_pre_tokenizer(_LLAMA3_SPLIT),
    "gpt-2": _plain_pre_tokenizer,
    "default": _plain_pre_tokenizer,
}
"""How text is cut before merging, by `tokenizer.ggml.pre`."""
