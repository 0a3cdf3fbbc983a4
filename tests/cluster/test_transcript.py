"""Which tokens are shown, with which text."""

import random

import pytest

from cluster.transcript import Transcript
from lorajax.errors import EngineFailure
from lorajax.spec import Failed, Finished, FinishReason, Token, TokenEvent
from lorajax.text import StreamDecoder
from tests.fakes import TIMING, ByteTokenizer


def finished(reason=FinishReason.LENGTH):
    return Finished(request_id="r1", reason=reason, num_prompt_tokens=1, num_completion_tokens=1, timing=TIMING)


def played(data, stop=(), end=None):
    """The transcript, and what each event of these bytes made it show."""
    transcript = Transcript(ByteTokenizer().stream(stop))
    events = [*(TokenEvent(request_id="r1", token=Token(id=byte)) for byte in data), *([end] if end else [])]
    return transcript, [transcript.push(event) for event in events]


def test_token_is_held_until_its_text_is_certain():
    _, shown = played("éa".encode())
    assert [[text for _, text in tokens] for tokens in shown] == [[], ["", "é"], ["a"]]


def test_held_text_stands_on_the_last_token():
    _, shown = played(b"xST", ["STOP"], finished())
    assert [(token.id, text) for token, text in shown[-1]] == [(ord("S"), ""), (ord("T"), "ST")]


def test_nothing_follows_a_stop_string():
    transcript, shown = played(b"a|b", ["|"])
    assert [[text for _, text in tokens] for tokens in shown] == [["a"], [""], []]
    assert (transcript.has_stopped, transcript.has_ended) == (True, False)


def test_stop_string_ends_with_the_engine_s_timing_and_without_the_tokens_after_it():
    transcript, _ = played(b"a|b", ["|"], finished())
    end = transcript.finished
    assert (end.reason, end.num_completion_tokens, end.timing) == (FinishReason.STOP, 2, TIMING)


def test_part_of_a_character_after_a_stop_string_holds_nothing_back():
    transcript = Transcript(StreamDecoder(lambda _: b"a|\xe6", ["|"], strips_first_space=False))
    assert [text for _, text in transcript.push(TokenEvent(request_id="r1", token=Token(id=1)))] == ["a"]


def test_failure_ends_it_with_its_error():
    error = EngineFailure("lost")
    transcript, _ = played(b"a", end=Failed(request_id="r1", error=error))
    assert (transcript.error, transcript.finished, transcript.has_ended) == (error, None, True)


@pytest.mark.parametrize("seed", range(50))
def test_every_token_is_shown_once_and_the_texts_are_the_answer(seed):
    draw = random.Random(seed)
    answer = "".join(draw.choice("aé日|-") for _ in range(30))
    stop = draw.choice([(), ("|-",), ("日日", "é-a"), ("aaaa",)])
    transcript, shown = played(answer.encode(), stop, finished())
    cut = min((answer.find(text) for text in stop if text in answer), default=len(answer))
    tokens = [token for batch in shown for token in batch]
    assert "".join(text for _, text in tokens) == answer[:cut]
    assert [token.id for token, _ in tokens] == list(answer.encode())[: transcript.num_tokens]
