from lorajax.errors import DeadlineExceeded, LorajaxError
from lorajax.spec import FinishReason
from tests.lorajax.fake_device import LONG, World, adapter, answer, fed, request, world


def test_idle_scheduler_plans_nothing():
    assert World().scheduler.plan(0.0) is None


def test_prompt_is_fed_in_chunks_of_the_token_budget():
    made = world(max_batch_tokens=8)
    made.add(request("r", prompt=range(20), max_tokens=1))
    assert [fed(made.step())["r"] for _ in range(3)] == [8, 8, 4]


def test_long_prompt_does_not_stop_running_streams():
    made = world(max_batch_tokens=8, num_kv_pages=30)
    made.add(request("stream", **LONG))
    made.step()
    made.add(request("prompt", prompt=range(20), max_tokens=1))
    assert [fed(made.step()) for _ in range(3)] == [
        {"stream": 1, "prompt": 7},
        {"stream": 1, "prompt": 7},
        {"stream": 1, "prompt": 6},
    ]


def test_prompt_is_fed_in_small_chunks_while_a_stream_runs_and_in_large_ones_before():
    made = world(max_batch_tokens=16, interleaved_tokens=3, num_kv_pages=30)
    made.add(request("first", prompt=range(14), **LONG))
    assert fed(made.step()) == {"first": 14}
    made.add(request("second", prompt=range(14), **LONG))
    assert fed(made.step()) == {"first": 1, "second": 3}


def test_older_prompts_are_fed_first():
    made = world(max_batch_tokens=8)
    made.add(request("old", prompt=range(12), max_tokens=1))
    made.add(request("new", prompt=range(12), max_tokens=1))
    assert [fed(made.step()) for _ in range(3)] == [{"old": 8}, {"old": 4, "new": 4}, {"new": 8}]


def test_higher_priority_starts_first():
    made = world(max_sequences=1)
    made.add(request("low"))
    made.add(request("high", priority=1))
    made.run()
    assert made.started == ["high", "low"]


def test_chunks_of_one_adapter_set_are_neighbours_base_first_decoding_first():
    made = world(adapter("a"), adapter("b"), max_batch_tokens=16)
    for name, used in (("a1", ["a"]), ("b1", ["b"]), ("base", [])):
        made.add(request(name, *used, **LONG))
    made.step()
    while made.fetching:
        made.fetch()
    made.step()
    made.add(request("a2", "a", **LONG))
    plan = made.step()
    used = [chunk.request.adapters for chunk in plan.chunks]
    assert used == sorted(used, key=used.index)
    assert next(iter(fed(plan))) == "base"
    assert list(fed(plan)).index("a2") == list(fed(plan)).index("a1") + 1


def test_decoding_comes_before_prefill_within_a_run():
    made = world()
    made.add(request("stream", **LONG))
    made.step()
    made.add(request("prompt", prompt=range(20), priority=1))
    made.step()
    assert list(fed(made.step())) == ["stream", "prompt"]


def test_cancelled_request_frees_its_pages_before_the_next_step():
    made = World()
    made.add(request("r", **LONG))
    made.step()
    made.cancel("r")
    stats = made.scheduler.stats()
    assert stats.kv_pages_free == stats.kv_pages_total


def test_token_of_a_request_cancelled_during_the_step_is_dropped():
    made = World()
    made.add(request("r", **LONG))
    tokens = made.plan()
    made.cancel("r")
    assert made.scheduler.commit(made.last_plan, tokens, 0.0) == []


def test_id_used_again_during_the_step_does_not_get_the_old_token():
    made = World()
    made.add(request("r", **LONG))
    tokens = made.plan()
    made.scheduler.cancel("r")
    made.scheduler.add(request("r", prompt=(9, 9)), 0.0)
    assert made.scheduler.commit(made.last_plan, tokens, 0.0) == []


def test_plan_of_a_failed_step_can_be_made_again():
    made = World()
    made.add(request("r"))
    made.plan()
    made.run()
    assert made.delivered["r"] == answer(made.requests["r"])[0]


def test_shell_can_finish_a_request_on_a_stop_string():
    made = World()
    made.add(request("r", **LONG))
    made.step()
    finished = made.scheduler.finish("r", 5.0)
    assert (finished.reason, finished.num_completion_tokens, finished.timing.total_s) == (FinishReason.STOP, 1, 5.0)
    assert made.scheduler.finish("r", 5.0) is None


def test_stop_token_is_counted_but_not_delivered():
    made = World()
    stop = answer(request("probe", max_tokens=1, ignore_eos=True))[0][0]
    made.add(request("r", stop_token_ids=(stop,)))
    made.run()
    assert (made.delivered["r"], made.ended["r"].num_completion_tokens) == ([], 1)


def test_output_is_shown_to_penalties_only():
    made = World()
    made.add(request("plain", **LONG))
    made.add(request("fined", presence_penalty=1.0, **LONG))
    made.step()
    plan = made.step()
    assert {chunk.request.id: (len(chunk.output), chunk.num_output) for chunk in plan.chunks} == {
        "plain": (0, 1),
        "fined": (1, 1),
    }


def test_newest_is_preempted_when_kv_runs_out_and_still_answers_the_same():
    made = world(num_kv_pages=7)
    made.add(request("old", prompt=range(6), max_tokens=16, ignore_eos=True))
    made.add(request("new", prompt=range(2), max_tokens=16, ignore_eos=True))
    made.run()
    assert made.scheduler.stats().num_preemptions > 0
    assert list(made.ended) == ["old", "new"]


def test_lower_priority_is_preempted_before_newer():
    made = world(num_kv_pages=7)
    made.add(request("low", prompt=range(6), max_tokens=16, ignore_eos=True))
    made.step()
    made.add(request("high", prompt=range(6), max_tokens=16, ignore_eos=True, priority=1))
    made.run()
    assert made.scheduler.stats().num_preemptions > 0
    assert list(made.ended) == ["high", "low"]


def test_queued_request_past_its_deadline_is_never_prefilled():
    made = world(max_sequences=1)
    made.add(request("runs", **LONG))
    made.add(request("late", deadline_s=2.0))
    made.run()
    assert isinstance(made.ended["late"], DeadlineExceeded)
    assert "late" not in made.started


def test_running_request_past_its_deadline_fails_at_the_next_plan():
    made = World()
    made.add(request("r", deadline_s=2.0, **LONG))
    made.run()
    assert isinstance(made.ended["r"], LorajaxError)
    assert made.scheduler.stats().kv_pages_free == made.scheduler.stats().kv_pages_total


def test_timing_tells_adapter_wait_from_queue():
    made = world(adapter("a"), max_sequences=1)
    made.add(request("first", max_tokens=4, ignore_eos=True))
    made.add(request("r", "a"))
    made.step()
    made.fetch()
    made.run()
    timing = made.ended["r"].timing
    assert (timing.adapter_wait_s, timing.queue_s, timing.prefill_s) == (1.0, 3.0, 1.0)
