from lorajax.sequence import Sequence
from lorajax.spec import FinishReason
from tests.lorajax.fake_device import request

END = (99,)


def sequence(**changes):
    return Sequence(request=request("r", prompt=(1, 2, 3), **changes), arrival=0, submitted_s=10.0)


def test_fresh_sequence_has_its_whole_prompt_to_feed():
    assert (sequence().num_uncached, sequence().num_output) == (3, 0)


def test_model_stop_token_ends_the_completion():
    assert sequence().append(99, END, 11.0) is FinishReason.STOP


def test_ignore_eos_ignores_the_models_stop_tokens():
    assert sequence(ignore_eos=True).append(99, END, 11.0) is None


def test_ignore_eos_keeps_the_requests_own_stop_tokens():
    assert sequence(ignore_eos=True, stop_token_ids=(5,)).append(5, END, 11.0) is FinishReason.STOP


def test_stop_token_at_the_length_limit_is_a_stop():
    assert sequence(max_tokens=1).append(99, END, 11.0) is FinishReason.STOP


def test_max_tokens_end_the_completion():
    one = sequence(max_tokens=2)
    assert [one.append(4, END, 11.0), one.append(4, END, 12.0)] == [None, FinishReason.LENGTH]


def test_rewound_sequence_feeds_prompt_and_output_again():
    one = sequence()
    one.append(4, END, 11.0)
    one.pages, one.num_cached = [5], 3
    assert one.rewind() == [5]
    assert (one.num_uncached, one.output, one.is_running) == (4, (4,), False)


def test_equal_adapter_sets_compare_equal_in_any_order():
    there = Sequence(request=request("r", "b", "a"), arrival=0, submitted_s=0.0)
    back = Sequence(request=request("r", "a", "b"), arrival=0, submitted_s=0.0)
    assert there.adapters == back.adapters


def test_timing_splits_the_wait_at_the_adapters_arrival():
    one = sequence()
    one.observe_adapters(are_ready=True, now_s=12.0)
    one.scheduled_s = 15.0
    one.append(4, END, 21.0)
    timing = one.timing(30.0)
    assert (timing.adapter_wait_s, timing.queue_s, timing.prefill_s) == (2.0, 3.0, 6.0)
    assert (timing.first_token_s, timing.total_s) == (11.0, 20.0)


def test_adapters_lost_while_waiting_are_waited_for_again():
    one = sequence()
    for are_ready, now_s in ((True, 12.0), (False, 13.0), (True, 14.0)):
        one.observe_adapters(are_ready=are_ready, now_s=now_s)
    assert one.timing(20.0).adapter_wait_s == 4.0
