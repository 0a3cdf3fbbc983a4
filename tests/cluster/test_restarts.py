"""How patient a supervisor is, and how it tells an end in words."""

import pytest

from cluster.restarts import Pace, Record, describe_end

PACE = Pace()


def delays(*lives_s):
    record, found = Record(), []
    for lived_s in lives_s:
        record = record.failed(lived_s, PACE)
        found.append(record.delay_s(PACE))
    return found


def test_each_wait_is_twice_the_one_before_up_to_the_most():
    assert delays(1, *[60.0] * 6) == [1, 2, 4, 8, 16, 30, 30]


def test_who_has_run_well_is_started_again_at_once():
    assert delays(PACE.fast_s, PACE.fast_s) == [0, 2]


def test_five_fast_failures_in_a_row_are_hopeless():
    assert [Record(num_failures=9, num_fast=number).is_hopeless(PACE) for number in (4, 5)] == [False, True]


def test_hopeless_one_waits_the_longest():
    assert delays(1, 1, 1, 1, 1, 1) == [1, 2, 4, 8, 30, 30]


def test_a_longer_life_breaks_the_row_of_fast_failures():
    record = Record()
    for lived_s in (1, 1, 1, 1, 60, 1):
        record = record.failed(lived_s, PACE)
    assert not record.is_hopeless(PACE)


def test_a_steady_life_makes_as_good_as_new():
    assert delays(1, 1, 1, PACE.steady_s, 1) == [1, 2, 4, 0, 2]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "has drained"),
        (1, "failed (exit code 1)"),
        (134, "a host never joined or a group member died"),
        (-6, "a host never joined or a group member died"),
        (137, "out of memory, or kill -9"),
        (-9, "out of memory, or kill -9"),
        (139, "segmentation fault"),
        (-15, "was ended by SIGTERM (exit code 143)"),
        (255, "failed (exit code 255)"),
    ],
)
def test_ends_are_told_in_words(code, words):
    assert words in describe_end(code)
