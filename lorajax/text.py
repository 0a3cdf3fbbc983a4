"""Text to token ids and back, whole or token by token. Owns: what may become a control token, and when to show text.

Does not: touch files (checkpoints/tokenizer.py does) or know chat templates (lorajax/chat.py does).
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import tokenizers
from tokenizers import decoders

from lorajax.errors import UnsupportedModel

CUT = "\ufdd0"
"""A Unicode noncharacter that cuts rendered chat text in two and leaves no token: see `lorajax.chat`."""

type _TokenBytes = Callable[[str], bytes]


@final
class Tokenizer:
    """One model's tokenizer; `encode` never makes a control token, `encode_chat` does.

    Added tokens that are not marked special (Qwen's `<think>`) are ordinary vocabulary and are found in any text.
    Safe to share between threads: nothing changes after construction, and encoding releases the GIL.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Take over `inner`; nobody else may change it afterwards.

        Raises: UnsupportedModel if its decoder is not byte-level or SentencePiece-like.
        """
        inner.no_truncation()
        inner.no_padding()
        self._json = inner.to_str()
        self._plain = tokenizers.Tokenizer.from_str(self._json)
        self._plain.encode_special_tokens = True
        self._chat = tokenizers.Tokenizer.from_str(self._json)
        self._chat.add_special_tokens([tokenizers.AddedToken(CUT, normalized=False)])
        added = inner.get_added_tokens_decoder()
        self.special_tokens: Mapping[int, str] = {id: token.content for id, token in added.items() if token.special}
        self._token_bytes, self._strips_first_space = _decoder(inner.decoder)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included; a model may have more rows than this."""
        return int(self._plain.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of a user's text, after the model's own BOS if it has one; control tokens in it stay plain text."""
        return list(self._plain.encode_batch_fast([text])[0].ids)

    def encode_chat(self, rendered: str) -> list[int]:
        """Ids of what a chat template wrote, its control tokens recognised; adds no BOS. Only for rendered chats."""
        if CUT not in rendered:
            return list(self._chat.encode_batch_fast([rendered], add_special_tokens=False)[0].ids)
        # Slower, but it names the tokens: where a vocabulary has holes, the id of CUT may also be another token's.
        encoding = self._chat.encode_batch([rendered], add_special_tokens=False)[0]
        return [id for id, token in zip(encoding.ids, encoding.tokens, strict=True) if token != CUT]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens; bytes that are no character become U+FFFD."""
        stream = self.stream()
        return "".join([*map(stream.push, ids), stream.flush()])

    def stream(self, stop: Sequence[str] = ()) -> "StreamDecoder":
        """A decoder for one completion that ends at the first of the `stop` strings."""
        return StreamDecoder(self._bytes_of, stop, strips_first_space=self._strips_first_space)

    def token_text(self, id: int) -> str:
        """One token on its own, special tokens by name; part of a character shows as U+FFFD."""
        return self.special_tokens.get(id) or self._bytes_of(id).decode("utf-8", "replace")

    def to_json(self) -> str:
        """The content of a `tokenizer.json`."""
        return self._json

    def _bytes_of(self, id: int) -> bytes:
        token = None if id in self.special_tokens else self._plain.id_to_token(id)
        return b"" if token is None else self._token_bytes(token)


@final
class StreamDecoder:
    """The text of one completion, token by token, as soon as it is certain.

    Invariant: everything returned so far is a prefix of the final text, whatever tokens follow: a character whose bytes
    are not all there, and a suffix that may begin a stop string, are held back. If several stop strings occur, the
    one completed first counts. Each push costs time in its token and the stop strings, not in the text so far.
    Owner: whoever streams the one completion.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], stop: Sequence[str], *, strips_first_space: bool) -> None:
        """Use `Tokenizer.stream`."""
        self._bytes_of = bytes_of
        self._stop = tuple(stop)
        self._longest_stop = max(map(len, stop), default=1)
        self._strips_space = strips_first_space
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """Whether a stop string was seen; the text ends before it and nothing more comes."""

    @property
    def is_holding(self) -> bool:
        """Whether text is held back: part of a character, or what may begin a stop string."""
        return bool(self._held or self._characters.getstate()[0])

    def push(self, token_id: int) -> str:
        """Text that this token makes certain; may be empty."""
        return "" if self.stopped else self._settle(self._characters.decode(self._bytes_of(token_id)))

    def flush(self) -> str:
        """The rest of the text, once no token follows."""
        if self.stopped:
            return ""
        certain = self._settle(self._characters.decode(b"", final=True))
        held, self._held = self._held, ""
        return certain + held

    def _settle(self, new: str) -> str:
        if not new:
            return ""
        if self._strips_space:
            new, self._strips_space = new.removeprefix(" "), False
        text = self._held + new
        matches = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        self.stopped = bool(matches)
        certain = min(matches)[1] if matches else len(text) - self._undecided(text)
        self._held = "" if self.stopped else text[certain:]
        return text[:certain]

    def _undecided(self, text: str) -> int:
        """Length of the longest suffix that begins a stop string."""
        for at in range(max(0, len(text) - self._longest_stop + 1), len(text)):
            tail = text[at:]
            if any(stop.startswith(tail) for stop in self._stop):
                return len(text) - at
        return 0


def _decoder(decoder: decoders.Decoder | None) -> tuple[_TokenBytes, bool]:
    """How a token's bytes are read, and whether the text loses one leading space."""
    # The Python classes hide their settings; the pickled state is the decoder's JSON.
    config: dict[str, Any] = json.loads(decoder.__getstate__()) if decoder else {"type": None}
    steps = config["decoders"] if config["type"] == "Sequence" else [config]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level_bytes, False
    if kinds in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        plain_space = steps[0]["pattern"] == {"String": "▁"} and steps[0]["content"] == " "
        strip = [(step["content"], step["start"], step["stop"]) for step in steps[3:]]
        if plain_space and strip in ([], [(" ", 1, 0)]):
            return _sentencepiece_bytes, bool(strip)
    raise UnsupportedModel(
        f"the tokenizer's decoder is {config}; wanted ByteLevel, or Replace ▁, ByteFallback, Fuse, Strip"
    )


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary. Source: GPT-2."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # an added token is spelled as it reads
        return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()
