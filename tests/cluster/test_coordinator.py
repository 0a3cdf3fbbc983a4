"""The coordinator by text traces: what happens, what it orders. How to read and rewrite them: trace_rig.py."""

from pathlib import Path

import pytest

from cluster import events
from cluster.coordinator import Coordinator, CoordinatorConfig
from cluster.operating_points import DEFAULT
from cluster.placement import POLICIES
from tests.cluster.fake_hosts import FakeHost, Folder, host_spec
from tests.cluster.trace_rig import CONFIG, played

TRACES = sorted((Path(__file__).parent / "traces").glob("*.txt"))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_events_give_the_commands_of_the_trace(path):
    assert played(path.read_text()) == path.read_text()


def running(policy, hosts, now_s=0.0):
    """A coordinator that has settled with these hosts."""
    coordinator = Coordinator(CONFIG, DEFAULT, policy)
    coordinator.step(events.Restored(registrations=(), round=0))
    for host in hosts:
        coordinator.step(host.joined(now_s))
    coordinator.step(events.Tick(now_s=now_s + CONFIG.settle_s))
    return coordinator


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_of_the_product_places_what_is_loaded(name):
    hosts = {name: FakeHost(host_spec(name)) for name in ("a", "b", "c")}
    coordinator = running(POLICIES[name], hosts.values())
    folders = {f"/{number}": Folder(f"v{number}") for number in range(6)}
    for call, path in enumerate(folders):
        (order,) = coordinator.step(events.LoadAsked(call=call, name=path[1:], path=path))
        host = hosts[order.host]
        host.orders[order.number] = order
        coordinator.step(host.carry_out(order.number, folders))
    coordinator.step(events.RebalanceAsked(call=9))
    shares = coordinator.table().shares
    assert {version: pytest.approx(1) for version in shares} == {
        f"v{number}": sum(share.share for share in shares[f"v{number}"]) for number in range(6)
    }


def test_coordinator_that_was_stopped_blames_no_host():
    host = FakeHost(host_spec("a"))
    coordinator = running(lambda given: {}, [host])
    coordinator.step(events.Tick(now_s=60.0))
    assert coordinator.table().hosts["a"].state == "serving"


def test_lost_hosts_are_forgotten_in_the_end():
    host = FakeHost(host_spec("a"))
    coordinator = running(lambda given: {}, [host])
    coordinator.step(host.left(2.0))
    coordinator.step(events.Tick(now_s=2000.0))
    assert not coordinator.table().hosts


def test_outcome_that_nobody_waits_for_changes_nothing():
    coordinator = running(lambda given: {}, [FakeHost(host_spec("a"))])
    assert coordinator.step(events.Done(number=77)) == ()


def test_default_silence_leaves_time_for_detection_within_three_seconds():
    assert CoordinatorConfig().silence_s + 2 * 0.25 <= 3
