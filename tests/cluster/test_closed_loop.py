"""One trial: what is counted, by hand, and how an engine is kept busy."""

from itertools import count

import pytest

from cluster.closed_loop import MIN_FIRST_TOKENS, Tally, measure
from lorajax.errors import EngineFailure
from lorajax.spec import Failed, Request, Sampling
from tests.fakes import EchoEngine


def request(id, num_prompt=10, max_tokens=3):
    return Request(id=str(id), prompt=(1,) * num_prompt, sampling=Sampling(max_tokens=max_tokens))


def one_by_one(tally, num_requests, start_s=0.0):
    """Requests of 10 prompt tokens, one after the other: sent, after 1 s a token, after 0.5 s another, and its end."""
    for number in range(num_requests):
        sent_s = start_s + number * 1.5
        tally.sent(request(number), sent_s)
        tally.token(str(number), sent_s + 1.0)
        tally.token(str(number), sent_s + 1.5)
        tally.ended(str(number))
    return tally


def test_whole_requests_are_counted_where_one_runs_at_a_time():
    # From the first token of the first to that of the fifth: four requests of 12 tokens in 6 s.
    trial = one_by_one(Tally(1, 0.0), 5).trial()
    assert (trial.tokens_per_s, trial.ttft_p95_s, trial.tbt_p95_s) == (8.0, 1.0, 0.5)


def test_trial_goes_on_for_its_span():
    tally = one_by_one(Tally(1, span_s=9.0), 6)
    assert not tally.is_full
    assert one_by_one(tally, 1, start_s=9.0).is_full


def test_trial_goes_on_until_there_are_enough_first_tokens():
    tally = one_by_one(Tally(1, 0.0), MIN_FIRST_TOKENS)
    assert not tally.is_full


def test_trial_goes_on_until_there_is_a_second_token():
    tally = Tally(1, 0.0)
    for number in range(2 * MIN_FIRST_TOKENS):
        tally.sent(request(number), float(number))
        tally.token(str(number), number + 0.5)
    assert not tally.is_full
    tally.token("1", 100.0)
    tally.sent(request("last"), 100.0)
    tally.token("last", 101.0)
    assert tally.is_full


def test_burst_at_the_start_does_not_count():
    tally = Tally(2, 0.0)
    for id in ("a", "b"):
        tally.sent(request(id), 0.0)
    tally.token("a", 5.0)
    tally.token("a", 9.0)
    tally.token("b", 9.5)
    tally.token("a", 10.0)
    tally.ended("a")
    for number in range(MIN_FIRST_TOKENS):
        tally.sent(request(number), 10.0)
        tally.token(str(number), 10.5)
    trial = tally.trial()
    # One more token of "a", and prompts of 10 with a token each, within the second from 9.5 on.
    assert (trial.tokens_per_s, trial.ttft_p95_s, trial.tbt_p95_s) == (1 + 11 * MIN_FIRST_TOKENS, 0.5, 1.0)


def test_what_comes_after_the_trial_does_not_count():
    tally = one_by_one(Tally(1, 0.0), 5)
    before = tally.trial()
    assert one_by_one(tally, 1, start_s=100.0).trial() == before


def test_requests_that_have_not_ended_are_in_flight():
    tally = Tally(1, 0.0)
    for id in ("unread", "read", "ended"):
        tally.sent(request(id), 0.0)
    for id in ("read", "ended"):
        tally.token(id, 1.0)
    tally.ended("ended")
    assert tally.in_flight == {"unread", "read"}


def busy(num_streams):
    """A trial of an engine: what came of it, the streams in the order in which they asked, and the engine."""
    engine, asked, numbers = EchoEngine(), [], count()

    def next_request(stream):
        asked.append(stream)
        return request(next(numbers))

    return measure(engine, next_request, num_streams, 0.0), asked, engine


def test_trial_says_how_many_were_in_flight():
    trial, _, _ = busy(3)
    assert trial.concurrency == 3


def test_every_stream_sends_its_next_request_when_the_last_has_ended():
    _, asked, _ = busy(2)
    assert asked[:4] == [0, 1, 0, 1]


def test_what_still_runs_after_a_trial_is_cancelled():
    calls, numbers = [], count()
    measure(EchoEngine(on_call=calls.append), lambda _: request(next(numbers)), 3, 0.0)
    cancelled = [id for kind, id in calls if kind == "cancel"]
    assert len(set(cancelled)) == 3  # the last request of each stream


class Failing:
    """An engine that fails whatever it is asked."""

    def submit(self, asked, sink):
        sink(Failed(request_id=asked.id, error=EngineFailure("broken")))

    def cancel(self, request_id):
        raise AssertionError("it has ended")


def test_request_that_fails_ends_the_trial_with_its_error():
    with pytest.raises(EngineFailure, match="broken"):
        measure(Failing(), request, 1, 0.0)
