from hypothesis import given
from hypothesis import strategies as st

from lorajax.pages import PagePool
from lorajax.scheduler import MAX_OVERTAKES
from lorajax.sequence import Sequence, insert
from lorajax.shares import Shares
from tests.lorajax.fake_device import LONG, adapter, request, world


def joined(*asked):
    """Shares of (adapter, when) in order of arrival, and those who wait; "" is the base model."""
    shares, waiting = Shares(), []
    for number, (name, when_s, *priority) in enumerate(asked):
        made = request(f"{name}{number}", *([name] if name else []), priority=sum(priority))
        sequence = Sequence(request=made, arrival=number, submitted_s=when_s)
        shares.join(sequence)
        insert(waiting, sequence)
    return shares, waiting


def in_turn(*asked, limit=64):
    shares, waiting = joined(*asked)
    return [one.request.id for one in shares.in_turn(waiting, limit)]


def pool(num_free, num_total=100):
    made = PagePool(num_total + 1)
    made.take(num_total - num_free)
    return made


def test_a_later_request_of_a_small_share_has_its_turn_before_a_crowd():
    assert in_turn(("a", 0.0), ("a", 0.0), ("a", 0.0), ("b", 5.0))[0] == "b3"


def test_the_base_model_shares_as_adapters_do():
    assert in_turn(("", 0.0), ("", 0.0), ("", 0.0), ("b", 5.0))[0] == "b3"
    assert in_turn(("a", 0.0), ("a", 0.0), ("a", 0.0), ("", 5.0))[0] == "3"


def test_a_crowd_lets_others_pass_for_a_while_only():
    assert in_turn(("a", 0.0), ("a", 0.0), ("a", 0.0), ("b", 25.0))[0] == "a0"


def test_equal_shares_are_in_order_of_arrival():
    assert in_turn(("a", 0.0), ("b", 1.0), ("b", 2.0), ("a", 3.0)) == ["a0", "b1", "b2", "a3"]


def test_priority_comes_before_shares():
    assert in_turn(("a", 0.0, 1), ("a", 0.0, 1), ("b", 0.0))[:2] == ["a0", "a1"]


def test_others_are_seen_behind_a_crowd_that_is_longer_than_what_is_looked_at():
    assert in_turn(*[("a", 0.0)] * 9, ("b", 1.0), limit=2) == ["b9", "a0"]


@given(st.lists(st.tuples(st.sampled_from(("", "a", "b")), st.integers(0, 99)), max_size=30))
def test_requests_for_one_adapter_stay_in_order(asked):
    turns = in_turn(*sorted(asked, key=lambda one: one[1]))
    for name in ("", "a", "b"):
        numbers = [int(one.removeprefix(name)) for one in turns if one.rstrip("0123456789") == name]
        assert numbers == sorted(numbers)


def test_one_adapter_alone_uses_all_room():
    shares, waiting = joined(("a", 0.0), ("a", 0.0))
    assert not shares.must_yield(waiting[1], pool(num_free=1))


def test_the_larger_share_leaves_more_room():
    shares, waiting = joined(("a", 0.0), ("a", 0.0), ("a", 0.0), ("b", 0.0))
    assert [shares.must_yield(one, pool(num_free=5)) for one in waiting] == [True, True, True, False]


def test_a_crowd_leaves_no_room_to_those_who_come_after_its_turn():
    shares, waiting = joined(("a", 0.0), ("a", 0.0), ("a", 25.0), ("b", 25.0))
    assert [shares.must_yield(one, pool(num_free=5)) for one in waiting] == [False, False, True, False]


def test_shares_are_of_those_who_have_not_left():
    shares, waiting = joined(("a", 0.0), ("b", 0.0))
    shares.leave(waiting[0])
    assert not shares.must_yield(waiting[1], pool(num_free=0))


def crowded(**sizes):
    """The order in which requests start where one for an adapter comes just after a crowd on the base model."""
    made = world(adapter("b"), **sizes)
    made.add(request("first", "b", max_tokens=1))
    made.step()
    made.fetch()
    made.run()
    for number in range(20):
        made.add(request(f"crowd{number}", prompt=range(7), ignore_eos=True))
    made.step()
    made.add(request("other", "b", prompt=range(7), ignore_eos=True))
    made.run()
    return [name for name in made.started if name != "first"]


def test_who_comes_after_a_crowd_starts_as_soon_as_somebody_ends():
    started = crowded(max_sequences=1)
    assert started.index("other") == 1
    assert started[:1] + started[2:] == [f"crowd{number}" for number in range(20)]


def test_beside_others_a_crowd_leaves_room_in_which_they_start_at_once():
    made = world(adapter("b"), max_sequences=32, max_batch_tokens=200, interleaved_tokens=200, num_kv_pages=41)
    made.add(request("first", "b", **LONG))
    made.step()
    made.fetch()
    made.step()
    for number in range(20):
        made.add(request(f"crowd{number}", prompt=range(7), **LONG))
    made.step()
    made.add(request("other", "b", prompt=range(7), **LONG))
    made.step()
    assert "other" in made.started
    assert 12 <= len(made.started) < 20


def test_who_leaves_room_leaves_it_to_nobody_of_lower_priority():
    made = world(adapter("b"), max_sequences=32, max_batch_tokens=200, interleaved_tokens=200, num_kv_pages=41)
    made.add(request("first", "b", **LONG))
    made.step()
    made.fetch()
    made.step()
    for number in range(20):
        made.add(request(f"crowd{number}", prompt=range(7), priority=5, **LONG))
    made.add(request("low", "b", prompt=range(7), priority=-5, **LONG))
    made.step()
    assert 0 < sum(name.startswith("crowd") for name in made.started) < 20
    assert "low" not in made.started


def test_who_has_no_room_for_its_adapters_is_overtaken_a_bounded_number_of_times_in_a_crowd_too():
    made = world(adapter("big", 8), adapter("small"), max_sequences=3, num_kv_pages=100)
    made.add(request("first", "small", **LONG))
    made.step()
    made.fetch()
    made.step()
    for number in range(20):
        made.add(request(f"big{number}", "big", max_tokens=1))
    made.step()
    for number in range(MAX_OVERTAKES * 2):
        made.add(request(f"small{number}", "small", max_tokens=3 + number % 3))
        made.step()
    made.run()
    assert made.started.index("big0") == 1 + MAX_OVERTAKES


def test_where_kv_is_short_a_crowd_still_ends():
    started = crowded(max_sequences=8, max_batch_tokens=16, num_kv_pages=13)
    assert sorted({*started}) == sorted(["other", *(f"crowd{number}" for number in range(20))])
