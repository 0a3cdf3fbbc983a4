"""What a copy that nobody planned must be worth, alone and in the router's choice."""

from dataclasses import replace

import pytest

from cluster.copy_price import CopyPrice
from cluster.routing import RouterConfig
from cluster.view import Adapter
from tests.cluster.routing_rig import ASK, beat, host, router, send, table

MEAN_S = 2.0


def price(num_bytes, opened=()):
    made = CopyPrice(MEAN_S)
    made.update({one: Adapter(version=one, rank=8, num_bytes=size, path="/") for one, size in num_bytes.items()})
    made.opened(opened)
    return made


def test_mean_adapter_costs_the_mean_price():
    assert price({"a": 100, "b": 100}).price_s("a") == MEAN_S


def test_price_rises_with_the_time_that_requests_take_and_is_never_below_the_least():
    made = price({"a": 100})
    for _ in range(500):
        made.took(100.0)
    assert made.price_s("a") == pytest.approx(20.0, rel=1e-3)
    for _ in range(500):
        made.took(0.1)
    assert made.price_s("a") == MEAN_S


def test_price_goes_by_the_bytes():
    made = price({"small": 50, "large": 150})
    assert (made.price_s("small"), made.price_s("large")) == (0.5 * MEAN_S, 1.5 * MEAN_S)


def test_price_is_shared_by_the_open_requests():
    # Two open requests and one that asks, where the mean adapter has one and one.
    made = price({"a": 100, "b": 100}, opened=("a", "a"))
    assert (made.price_s("a"), made.price_s("b")) == (pytest.approx(MEAN_S * 2 / 3), pytest.approx(MEAN_S * 2))


def test_as_many_requests_of_every_adapter_leave_the_price_as_it_is():
    made = price({"a": 100, "b": 100}, opened=("a", "b") * 50)
    assert made.price_s("a") == pytest.approx(MEAN_S)


def test_closed_requests_pay_nothing():
    made = price({"a": 100, "b": 100}, opened=("a", "a"))
    made.closed(("a", "a"))
    assert made.price_s("a") == MEAN_S


@pytest.mark.parametrize("num_bytes", [{}, {"a": 0}])
def test_unknown_adapter_costs_the_mean_price(num_bytes):
    assert price(num_bytes).price_s("x") == MEAN_S


def test_copies_without_bytes_are_free():
    assert price({"a": 0, "b": 0}).price_s("a") == 0.0


def before_a_busy_host(tokens, **num_bytes):
    """The plan has all on `a`, where `tokens` wait; `b` is idle and holds nothing."""
    made = router(host("a", *num_bytes), host("b"), config=RouterConfig(ttft_p95_s=8.0))
    found = table(
        host("a", *num_bytes),
        host("b"),
        shares={one: {"a": 1.0} for one in num_bytes},
        ranks=dict.fromkeys(num_bytes, 8),
    )
    sized = {
        name: replace(one, adapter=replace(one.adapter, num_bytes=num_bytes[one.adapter.version]))
        for name, one in found.registrations.items()
    }
    made.update(replace(found, registrations=sized))
    beat(made, "a", waiting_tokens=tokens)
    return made


def asked(version):
    return replace(ASK, versions=(version,))


def test_small_adapter_leaves_a_busy_host_before_a_large_one():
    made = before_a_busy_host(1500, small=10, large=190)
    assert [made.choose(asked(version), 0.0).host for version in ("small", "large")] == ["b", "a"]


@pytest.mark.parametrize(("took_s", "host"), [(1.0, "b"), (1000.0, "a")])
def test_copies_are_dearer_where_requests_take_long(took_s, host):
    assert after_requests_of(took_s) == host


def after_requests_of(took_s):
    made = before_a_busy_host(1500, small=10, large=190)
    for number in range(200):
        send(made, f"r{number}", asked("large"))
        made.generated(f"r{number}", 128)
        made.ended(f"r{number}", took_s)
    return made.choose(asked("small"), 0.0).host


def test_crowd_is_soon_worth_a_copy():
    made = before_a_busy_host(1500, cold=100, **{f"other{number}": 100 for number in range(9)})
    hosts = [send(made, f"r{number}", asked("cold")) for number in range(5)]
    assert (hosts[0], hosts[-1]) == ("a", "b")
    assert made.choose(asked("other1"), 0.0).host == "a"
