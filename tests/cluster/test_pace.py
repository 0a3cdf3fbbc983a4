"""The pace is what predictions were off by."""

import pytest

from cluster.pace import Pace


def test_nothing_seen_changes_nothing():
    assert (Pace().factor, Pace().is_known) == (1.0, False)


@pytest.mark.parametrize("factor", [0.01, 1.0, 7.0])
def test_a_constant_error_is_found(factor):
    pace = Pace()
    for predicted_s in range(1, 20):
        pace.see(factor * predicted_s, predicted_s)
    assert pace.factor == pytest.approx(factor)
    assert pace.is_known


def test_it_follows_a_change():
    pace = Pace()
    for _ in range(50):
        pace.see(1.0, 1.0)
    for _ in range(100):
        pace.see(3.0, 1.0)
    assert 2.9 < pace.factor < 3.0
