"""Requests and their adapters in the scheduler: waiting, overtaking, failing, and what is refused at the door."""

import pytest

from lorajax.errors import BadRequest, Overloaded, UnknownAdapter, UnsupportedAdapter
from lorajax.scheduler import MAX_OVERTAKES
from tests.lorajax.fake_device import LONG, adapter, answer, fed, request, world


def test_adapter_load_does_not_stop_running_streams():
    made = world(adapter("a", 6), page_writes_per_step=2)
    made.add(request("stream", **LONG))
    made.step()
    made.add(request("r", "a"))
    steps = [fed(made.step())]
    made.fetch()
    steps += [fed(made.step()) for _ in range(3)]
    assert steps == [{"stream": 1}, {"stream": 1}, {"stream": 1}, {"stream": 1, "r": 3}]


def test_request_whose_adapter_is_loading_is_overtaken():
    made = world(adapter("cold"))
    made.add(request("waits", "cold"))
    made.add(request("passes"))
    assert fed(made.step()) == {"passes": 3}


def test_request_without_room_for_its_adapters_is_overtaken_a_bounded_number_of_times():
    made = world(adapter("big", 8), adapter("small"), max_sequences=3)
    made.add(request("first", "small", **LONG))
    made.step()
    made.fetch()
    made.step()
    made.add(request("big", "big"))
    for number in range(MAX_OVERTAKES * 2):
        made.add(request(f"small{number}", "small", max_tokens=3 + number % 3))
        made.step()
    made.run()
    assert made.started.index("big") == 1 + MAX_OVERTAKES
    assert made.started[1] == "small0"


def test_base_requests_pass_where_adapters_may_not():
    made = world(adapter("big", 8), adapter("small"), max_sequences=3, num_kv_pages=20)
    made.add(request("first", "small", max_tokens=60, ignore_eos=True))
    made.step()
    made.fetch()
    made.step()
    made.add(request("big", "big"))
    for number in range(MAX_OVERTAKES + 1):
        made.add(request(f"small{number}", "small", max_tokens=1))
        made.step()
    made.add(request("base"))
    made.step()
    assert made.started[-1] == "base"


def test_round_robin_over_more_adapters_than_fit_starves_nobody():
    names = [f"a{number}" for number in range(12)]
    made = world(*(adapter(name, 1 + number % 4) for number, name in enumerate(names)), num_adapter_pages=6)
    for number in range(48):
        made.add(request(f"r{number}", names[number % len(names)], max_tokens=5))
    made.run()
    assert len(made.ended) == 48


def test_failed_fetch_fails_only_the_requests_that_wait_for_it():
    made = world(adapter("a"), adapter("b"))
    for name, used in (("r1", "a"), ("r2", "a"), ("r3", "b")):
        made.add(request(name, used))
    made.step()
    made.fail_fetch(made.fetching.index("a"))
    assert list(made.ended) == ["r1", "r2"]
    made.run()
    assert made.delivered["r3"] == answer(made.requests["r3"])[0]


def test_adapter_can_be_asked_for_again_after_a_failed_fetch():
    made = world(adapter("a"))
    made.add(request("r1", "a"))
    made.step()
    made.fail_fetch()
    made.add(request("r2", "a"))
    made.run()
    assert made.delivered["r2"] == answer(made.requests["r2"])[0]


def test_pin_that_takes_the_last_room_fails_the_waiting_request():
    made = world(adapter("a", 5), adapter("b", 5))
    made.add(request("r", "a"))
    made.scheduler.residency.pin("b")
    made.step()
    assert isinstance(made.ended["r"], UnsupportedAdapter)


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (request("r", prompt=range(60), max_tokens=5), BadRequest, "60 prompt tokens .* = 65 exceeds .* 64 tokens"),
        (request("r", prompt=range(40), max_tokens=10), BadRequest, "needs 13 KV pages of 12"),
        (request("r", "none"), UnknownAdapter, "no adapter with version none"),
        (request("r", "huge"), UnsupportedAdapter, "need 9 device pages; 8 of 8"),
        (request("r", "a", "big"), UnsupportedAdapter, "need 9 device pages; 8 of 8"),
        (request("taken"), BadRequest, "taken is being served already"),
    ],
)
def test_request_that_can_never_be_served_is_refused_with_numbers(asked, error, words):
    made = world(adapter("a"), adapter("big", 8), adapter("huge", 9))
    made.add(request("taken"))
    with pytest.raises(error, match=words):
        made.scheduler.add(asked, 0.0)


def test_request_beyond_the_queue_is_refused_as_overloaded():
    made = world(max_queue=1)
    made.add(request("r1"))
    with pytest.raises(Overloaded, match="1 requests are waiting and max_queue is 1"):
        made.add(request("r2"))
