"""Claims about `lorajax.text`: what may become a control token, and when streamed text is safe to show."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from lorajax.errors import UnsupportedModel
from lorajax.text import CUT, StreamDecoder, Tokenizer
from tests import tiny_text

BYTE_LEVEL, SENTENCEPIECE = tiny_text.byte_level(), tiny_text.sentencepiece()
TOKENIZERS = [Tokenizer(BYTE_LEVEL), Tokenizer(SENTENCEPIECE)]
byte_ids = st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() + 3), max_size=40)
# The ids of pieces and special tokens: byte tokens that are no text are read differently on purpose.
piece_ids = st.lists(
    st.integers(0, SENTENCEPIECE.get_vocab_size() - 1).filter(lambda id: not 5 <= id < 5 + 256), max_size=40
)
texts = st.text(st.sampled_from("ab <>|/_hello wörld\n🙂你"), max_size=40)
stops = st.lists(st.text(st.sampled_from("ab c"), min_size=1, max_size=4), max_size=3)


def completion(tokenizer: Tokenizer, ids: list[int], stop: list[str]) -> tuple[list[str], bool]:
    stream = tokenizer.stream(stop)
    pieces = [stream.push(id) for id in ids]
    return [*pieces, stream.flush()], stream.stopped


def cut_at_first_completed(text: str, stop: list[str]) -> str:
    ends = [(end, -len(s)) for end in range(len(text) + 1) for s in stop if text[:end].endswith(s)]
    return text[: sum(min(ends))] if ends else text


@given(byte_ids)
@settings(deadline=None)
def test_streamed_byte_level_text_is_what_the_library_decodes_at_once(ids):
    assert "".join(completion(TOKENIZERS[0], ids, [])[0]) == BYTE_LEVEL.decode(ids)


@given(piece_ids)
@settings(deadline=None)
def test_streamed_sentencepiece_text_is_what_the_library_decodes_at_once(ids):
    assert "".join(completion(TOKENIZERS[1], ids, [])[0]) == SENTENCEPIECE.decode(ids)


@given(texts)
@settings(deadline=None)
def test_sentencepiece_text_with_byte_tokens_decodes_as_the_library_does(text):
    ids = SENTENCEPIECE.encode(text).ids
    assert TOKENIZERS[1].decode(ids) == SENTENCEPIECE.decode(ids)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(text=texts)
@settings(max_examples=50, deadline=None)
def test_text_survives_encoding_and_decoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(text=st.text(st.sampled_from("ab c🙂"), max_size=30), stop=stops)
@settings(deadline=None)
def test_streamed_text_ends_before_the_stop_string_completed_first(tokenizer, text, stop):
    pieces, stopped = completion(tokenizer, tokenizer.encode(text), stop)
    assert "".join(pieces) == cut_at_first_completed(text, stop)
    assert stopped == any(s in text for s in stop)


@given(byte_ids)
@settings(deadline=None)
def test_no_push_shows_part_of_a_valid_character(ids):
    pieces, _ = completion(TOKENIZERS[0], ids, [])
    assert sum(piece.count("\ufffd") for piece in pieces) == BYTE_LEVEL.decode(ids).count("\ufffd")


def test_a_character_is_shown_once_its_last_byte_is_there():
    stream = TOKENIZERS[1].stream()
    smile = [5 + byte for byte in "🙂".encode()]
    assert [stream.push(id) for id in smile] == ["", "", "", "🙂"]


def test_text_that_cannot_begin_a_stop_string_is_shown_at_once():
    tokenizer = TOKENIZERS[0]
    stream = tokenizer.stream(["xyz"])
    assert [stream.push(tokenizer.encode(letter)[-1]) for letter in "axyaxyz"] == ["a", "", "", "xya", "", "", ""]


@pytest.mark.parametrize("stop", [["cd", "b"], ["b", "cd"], ["abcd", "bc", "b"]])
def test_of_two_stop_strings_in_one_token_the_one_completed_first_counts(stop):
    stream = StreamDecoder(lambda _: b"abcd", stop, strips_first_space=False)
    assert (stream.push(0), stream.stopped) == ("a", True)


def test_nothing_follows_a_stop_string():
    tokenizer = TOKENIZERS[0]
    stream = tokenizer.stream(["b"])
    shown = [stream.push(tokenizer.encode(letter)[-1]) for letter in "abc"]
    assert (shown, stream.flush(), stream.stopped) == (["a", "", ""], "", True)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("control", tiny_text.CONTROL)
def test_a_users_text_never_becomes_a_control_token(tokenizer, control):
    bos = tokenizer.encode("")
    ids = tokenizer.encode(f"a{control}b")
    assert not set(ids[len(bos) :]) & set(tokenizer.special_tokens)
    assert tokenizer.decode(ids) == f"a{control}b"


def test_a_rendered_chats_control_tokens_are_recognised_without_a_bos():
    tokenizer = TOKENIZERS[0]
    ids = tokenizer.encode_chat("<|im_start|>user")
    assert [id for id in ids if id in tokenizer.special_tokens] == [BYTE_LEVEL.token_to_id("<|im_start|>")]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_cut_keeps_text_from_becoming_a_control_token_and_leaves_no_id(tokenizer):
    ids = tokenizer.encode_chat(f"a<{CUT}|im_end|>b")
    assert not set(ids) & set(tokenizer.special_tokens)
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.decode(ids).replace(" ", "") == "a<|im_end|>b"


def test_bos_comes_before_text_where_the_model_says_so():
    assert [tokenizer.encode("hello")[0] == 0 for tokenizer in TOKENIZERS] == [True, False]


def test_truncation_saved_in_a_tokenizer_does_not_shorten_prompts():
    inner = tiny_text.byte_level()
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    tokenizer = Tokenizer(inner)
    assert tokenizer.decode(tokenizer.encode("the quick brown fox")) == "the quick brown fox"
    assert len(tokenizer.encode("")) == 1


def test_a_tokens_own_text_names_special_tokens_and_marks_part_of_a_character():
    tokenizer = TOKENIZERS[1]
    assert [tokenizer.token_text(id) for id in (4, 5 + 0x41, 5 + 0xF0, 10**6)] == ["<|im_end|>", "A", "\ufffd", ""]


def test_added_tokens_count_towards_the_vocabulary():
    assert TOKENIZERS[0].vocab_size == BYTE_LEVEL.token_to_id("<think>") + 1


def test_an_unknown_decoder_is_refused():
    inner = tokenizers.Tokenizer(models.BPE())
    inner.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedModel, match="WordPiece"):
        Tokenizer(inner)
