"""The pace: due times are the workload's, and whatever makes a request late is in its latency. Time is virtual."""

import asyncio
import math

import pytest

from benchmarks.drive.open_loop import NOT_SENT, Sending, send
from tests.benchmarks.drive.rig import STANDS, OneAtATime, sent, virtual, workload


def ttft_s(outcomes):
    return [round(one.first_s - one.due_s, 6) for one in outcomes]


def test_a_stall_of_a_second_is_in_the_latency_of_all_that_were_due_meanwhile():
    # The first stands still for 1 s and is answered at 1.1 s; the others, due 0.2 s apart, then have 0.1 s each.
    found = sent(OneAtATime(stalls={0: 1.0}), workload(0.0, 0.2, 0.4, 0.6))
    assert ttft_s(found.outcomes) == [1.05, 0.95, 0.85, 0.75]


def test_requests_are_sent_when_they_are_due_though_none_is_answered():
    found = sent(OneAtATime(stalls={0: 1.0}), workload(0.0, 0.2, 0.4, 0.6))
    assert [one.sent_s for one in found.outcomes] == [0.0, 0.2, 0.4, 0.6]


def test_waiting_for_room_is_a_late_send_and_counts_as_latency():
    found = sent(OneAtATime(answer_s=1.0), workload(0.0, 0.1, 0.2), max_concurrency=1)
    assert [one.sent_s for one in found.outcomes] == [0.0, 1.0, 2.0]
    assert ttft_s(found.outcomes) == [0.5, 1.4, 2.3]


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_are_in_flight_than_asked_for(most):
    server = OneAtATime()
    sent(server, workload(*[0.0] * 5), max_concurrency=most)
    assert server.most_at_once == most


def test_without_a_bound_all_are_in_flight_together():
    server = OneAtATime()
    sent(server, workload(*[0.0] * 50))
    assert server.most_at_once == 50


def test_times_of_an_answer_are_those_of_its_messages():
    (one,) = sent(OneAtATime(), workload(0.5)).outcomes
    assert (one.first_s, one.end_s, *one.token_s) == pytest.approx((0.55, 0.6, 0.55, 0.6))
    assert (one.output_tokens, one.rank, one.host, one.code) == (4, 8, "host-0", "OK")


def test_a_request_that_fails_has_its_code_and_never_ends():
    first, second = sent(OneAtATime(fails={0: "UNAVAILABLE"}), workload(0.0, 1.0)).outcomes
    assert (first.code, first.first_s, first.end_s, first.output_tokens) == ("UNAVAILABLE", 0.05, math.inf, 1)
    assert second.code == "OK"


def test_the_time_to_answer_is_counted_from_when_a_request_was_due():
    server = OneAtATime(answer_s=1.0)
    found = sent(server, workload(0.0, 0.0, 0.0), max_concurrency=1, timeout_s=1.5)
    assert [one.code for one in found.outcomes] == ["OK", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]
    assert [call.timeout_s for call in server.calls] == [1.5, 0.5]


def test_what_the_server_says_is_kept_of_requests_that_succeed():
    found = sent(OneAtATime(first_token_s=0.03, fails={1: "UNAVAILABLE"}), workload(0.0, 1.0))
    assert [ending and ending.first_token_s for ending in found.endings] == [0.03, None]


def test_the_first_words_of_each_code_are_kept():
    found = sent(OneAtATime(fails={0: "UNAVAILABLE", 1: "INTERNAL"}), workload(0.0, 1.0))
    assert found.words == {"UNAVAILABLE": "as told", "INTERNAL": "as told"}


def test_what_is_stopped_tells_who_was_cut_and_who_was_never_sent():
    async def stopped():
        sending = asyncio.create_task(send(workload(0.0, 1.0, 2.0, 9.0), STANDS, OneAtATime(answer_s=1.5), Sending()))
        await asyncio.sleep(3.0)
        sending.cancel()
        return await sending

    found = virtual(stopped())
    assert [one.code for one in found.outcomes] == ["OK", "OK", "CANCELLED", NOT_SENT]
    assert (found.is_whole, found.span_s, found.outcomes[3].sent_s) == (False, 3.0, 9.0)


def test_requests_longer_than_the_context_are_cut_and_counted():
    server = OneAtATime()
    found = sent(server, workload(0.0, prompt_tokens=100, output_tokens=20), max_model_len=64)
    (call,) = server.calls
    assert (len(call.prompt), call.max_tokens, found.num_clipped, found.outcomes[0].prompt_tokens) == (44, 20, 1, 44)


def test_answers_shorter_than_asked_for_are_counted():
    assert [sent(OneAtATime(lacks=lacks), workload(0.0, 1.0)).num_short for lacks in (0, 1)] == [0, 2]


def test_an_answer_that_fills_the_context_leaves_one_token_of_prompt():
    server = OneAtATime()
    sent(server, workload(0.0, prompt_tokens=100, output_tokens=200), max_model_len=64)
    assert (len(server.calls[0].prompt), server.calls[0].max_tokens) == (1, 63)


def test_the_same_seed_sends_the_same_prompts_and_no_two_requests_share_one():
    once, again, other = OneAtATime(), OneAtATime(), OneAtATime()
    for server, seed in ((once, 1), (again, 1), (other, 2)):
        sent(server, workload(0.0, 0.0), seed=seed)
    prompts = [[call.prompt for call in server.calls] for server in (once, again, other)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert prompts[0][0] != prompts[0][1]


def test_prompts_of_text_have_as_many_words_as_tokens_are_wanted():
    server = OneAtATime()
    sent(server, workload(0.0, prompt_tokens=12), is_text=True)
    assert len(server.calls[0].prompt.split()) == 12


def test_requests_of_the_base_model_name_no_adapter():
    server = OneAtATime()
    (one,) = sent(server, workload(0.0, adapter="")).outcomes
    assert (server.calls[0].adapter, one.rank) == ("", 0)
