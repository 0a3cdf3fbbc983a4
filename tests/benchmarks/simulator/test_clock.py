"""Virtual time."""

import pytest

from benchmarks.simulator.clock import Clock


def ran(*planned):
    """What happened, of (when, turn, name)."""
    clock, seen = Clock(), []
    for when_s, turn, name in planned:
        clock.at(when_s, lambda name=name: seen.append((clock.now_s, name)), turn)
    clock.run(lambda: False)
    return seen


def test_what_is_earlier_comes_first():
    assert ran((2.0, 0, "b"), (1.0, 0, "a")) == [(1.0, "a"), (2.0, "b")]


def test_at_one_moment_turns_decide_and_then_who_asked_first():
    assert ran((1.0, 2, "c"), (1.0, 0, "a"), (1.0, 0, "b")) == [(1.0, "a"), (1.0, "b"), (1.0, "c")]


def test_what_is_cancelled_does_not_happen():
    clock, seen = Clock(), []
    clock.at(1.0, lambda: seen.append("a")).cancel()
    clock.run(lambda: False)
    assert seen == []


def test_nothing_can_be_planned_for_the_past():
    clock = Clock()
    clock.at(1.0, lambda: None)
    clock.run(lambda: False)
    with pytest.raises(AssertionError, match="has passed"):
        clock.at(0.5, lambda: None)


def test_a_run_that_is_over_leaves_the_rest():
    clock, seen = Clock(), []
    clock.at(1.0, lambda: seen.append("a"))
    clock.at(2.0, lambda: seen.append("b"))
    clock.run(lambda: bool(seen))
    assert seen == ["a"]
