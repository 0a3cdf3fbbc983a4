"""The coordinator by text traces: what happens, what it orders. How to read and rewrite them: trace_rig.py."""

from pathlib import Path

import pytest

from cluster import events
from cluster.coordinator import Coordinator, CoordinatorConfig
from cluster.operating_points import DEFAULT
from cluster.placement import POLICIES
from cluster.view import Share
from lorajax.spec import AdapterSpec
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


def test_tables_are_numbered_beyond_those_of_an_earlier_coordinator():
    earlier = running(lambda given: {}, [FakeHost(host_spec("a"))])
    for second in range(2, 200):
        earlier.step(events.Tick(now_s=float(second)))
    later = Coordinator(CONFIG, DEFAULT, lambda given: {})
    later.step(events.Restored(registrations=(), round=earlier.table().round))
    assert later.table().number > earlier.table().number > 0


def moving(hosts):
    """A coordinator that was told to copy as much as its budget allows, from host a to b."""
    coordinator = running(lambda given: {v: (Share("a", 0.5), Share("b", 0.5)) for v in given.adapters}, hosts)
    for number in range(4):
        (order,) = coordinator.step(events.LoadAsked(call=number, name=f"n{number}", path="/"))
        for host in hosts:
            host.memory.add(f"v{number}") if host.name == order.host else None
            coordinator.step(host.beat(2.0))
        spec = AdapterSpec(version=f"v{number}", rank=8, targets=("q_proj",), num_bytes=100)
        coordinator.step(events.FolderRead(number=order.number, spec=spec))
    return coordinator


def test_copies_under_way_count_against_the_budget_of_the_next_round():
    coordinator = moving([FakeHost(host_spec("a")), FakeHost(host_spec("b"))])
    rounds = [coordinator.step(events.RebalanceAsked(call=9 + number)) for number in range(3)]
    fetches = [one for commands in rounds for one in commands if isinstance(one, events.FetchAdapter)]
    assert sum(one.adapter.num_bytes for one in fetches) <= CONFIG.rounds.budget_bytes


def test_outcome_that_nobody_waits_for_changes_nothing():
    coordinator = running(lambda given: {}, [FakeHost(host_spec("a"))])
    assert coordinator.step(events.Done(number=77)) == ()


def test_default_silence_leaves_time_for_detection_within_three_seconds():
    assert CoordinatorConfig().silence_s + 2 * 0.25 <= 3
