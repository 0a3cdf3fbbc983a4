from dataclasses import replace

import pytest

from cluster.hosts import Hosts
from cluster.view import HostState
from lorajax.spec import Level
from tests.cluster.fake_hosts import FakeHost, host_spec


@pytest.fixture
def host():
    return FakeHost(host_spec("a"), memory={"v"})


@pytest.fixture
def hosts(host):
    hosts = Hosts()
    hosts.join(host.joined(0.0))
    return hosts


def holders(hosts, version="v"):
    return [view.spec.name for view in hosts.holders(version)]


def test_host_that_joins_with_copies_holds_them(hosts):
    assert holders(hosts) == ["a"]


def test_copy_that_was_told_to_go_is_not_counted_on(hosts):
    hosts.drop("a", "v")
    assert holders(hosts) == []


def test_beat_sent_before_the_drop_does_not_bring_the_copy_back(hosts, host):
    hosts.drop("a", "v")
    hosts.beat(host.beat(1.0))
    assert holders(hosts) == []


def test_copy_whose_drop_failed_counts_again(hosts):
    hosts.drop("a", "v")
    hosts.dropped("a", "v", is_gone=False)
    assert holders(hosts) == ["a"]


def test_new_life_counts_from_what_it_holds(hosts):
    hosts.drop("a", "v")
    again = FakeHost(host_spec("a", 2), memory={"v"})
    hosts.join(again.joined(1.0))
    hosts.beat(again.beat(2.0))
    assert holders(hosts) == ["a"]


def test_lost_host_holds_nothing_until_it_speaks_again(hosts, host):
    hosts.lose("a")
    lost = holders(hosts)
    hosts.beat(host.beat(1.0))
    assert (lost, holders(hosts)) == ([], ["a"])


def test_adapter_in_the_store_is_not_held(hosts, host):
    hosts.beat(replace(host.beat(1.0), copies={"v": Level.STORE}))
    assert holders(hosts) == []


def test_host_told_to_drain_does_not_serve_again_in_this_life(hosts, host):
    hosts.drain("a")
    hosts.beat(host.beat(1.0))
    assert hosts.view("a").state is HostState.DRAINING


def test_new_connection_of_the_same_life_still_drains(hosts, host):
    hosts.drain("a")
    hosts.join(host.joined(1.0))
    assert hosts.view("a").state is HostState.DRAINING


def test_new_life_serves_although_the_last_one_was_to_drain(hosts):
    hosts.drain("a")
    hosts.join(FakeHost(host_spec("a", 2)).joined(1.0))
    assert hosts.is_serving("a")


def test_host_that_could_not_be_told_to_drain_is_believed(hosts, host):
    hosts.drain("a")
    hosts.undrain("a")
    hosts.beat(host.beat(1.0))
    assert hosts.is_serving("a")


def test_only_living_hosts_are_silent(hosts):
    silent = hosts.silent(1.0)
    hosts.lose("a")
    assert (silent, hosts.silent(1.0)) == (("a",), ())
