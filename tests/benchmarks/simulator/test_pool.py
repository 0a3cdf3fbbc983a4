"""Copies of adapters on their way, on lines of 50 000 bytes/s between hosts and 10 000 from the store."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulator.clock import Clock
from benchmarks.simulator.links import Links
from benchmarks.simulator.pool import Pool
from benchmarks.simulator.site import Site
from cluster.view import Adapter
from tests.benchmarks.simulator.rig import PAGE, RANKS, config, hardware

ADAPTERS = {
    name: Adapter(version=name, rank=rank, num_bytes=hardware().adapter_bytes(rank), path=name)
    for name, rank in RANKS.items()
}
LATENCY_S = hardware().link_latency_s


class Hosts:
    """Pools that keep at once what comes."""

    def __init__(self, count=2, *, has_pool=True):
        self.clock = Clock()
        self.site = Site(config=config(), clock=self.clock, links=Links(hardware()), has_pool=has_pool)
        self.came = []
        self.pools = {f"h{number}": self._pool(f"h{number}") for number in range(count)}
        self.site.holders.update(self.pools)

    def _pool(self, name):
        def keep(adapter, then):
            pool = self.pools[name]
            if adapter.version not in pool.held:
                self.came.append((self.clock.now_s, name, adapter.version))
            pool.hold(adapter)
            pool.known[adapter.version] = adapter
            then()

        return Pool(name, self.site, keep)

    def ask(self, host, version, *peers, ordered=False):
        done = []
        pool = self.pools[host]
        (pool.order if ordered else pool.ensure)(ADAPTERS[version], peers, lambda: done.append(self.clock.now_s))
        return done

    def run(self):
        self.clock.run(lambda: False)


def test_without_a_pool_peers_are_not_asked():
    hosts = Hosts(has_pool=False)
    hosts.pools["h1"].hold(ADAPTERS["b"])
    done = hosts.ask("h0", "b", "h1")
    hosts.run()
    assert done == pytest.approx([2 * PAGE / 10_000 + LATENCY_S])


def test_a_copy_from_the_store_takes_its_bytes():
    hosts = Hosts()
    done = hosts.ask("h0", "b")
    hosts.run()
    assert done == pytest.approx([2 * PAGE / 10_000 + LATENCY_S])


def test_a_copy_from_a_peer_that_has_it_is_faster():
    hosts = Hosts()
    hosts.pools["h1"].hold(ADAPTERS["b"])
    done = hosts.ask("h0", "b", "h1")
    hosts.run()
    assert done == pytest.approx([2 * PAGE / 50_000 + LATENCY_S])


def test_a_peer_that_has_dropped_it_is_passed_over():
    hosts = Hosts(3)
    hosts.pools["h2"].hold(ADAPTERS["b"])
    done = hosts.ask("h0", "b", "h1", "h2")
    hosts.run()
    assert done == pytest.approx([2 * PAGE / 50_000 + LATENCY_S])


def test_who_asks_for_the_same_waits_for_the_same_copy():
    hosts = Hosts()
    first, second = hosts.ask("h0", "b"), hosts.ask("h0", "b")
    hosts.run()
    assert first == second
    assert hosts.site.moved.num_copies == 1


def test_copies_to_one_host_share_its_line():
    hosts = Hosts()
    first, second = hosts.ask("h0", "b"), hosts.ask("h0", "c")
    hosts.run()
    assert second[0] - first[0] == pytest.approx(2 * PAGE / 10_000)


def test_what_a_request_needs_overtakes_what_was_ordered():
    hosts = Hosts()
    for version in ("a", "b", "c"):
        hosts.ask("h0", version, ordered=True)
    wanted = hosts.ask("h0", "d")
    hosts.run()
    order = [version for _, _, version in hosts.came]
    assert order == ["a", "b", "d", "c"]
    assert wanted


def test_a_host_that_has_gone_gets_nothing():
    hosts = Hosts()
    done = hosts.ask("h0", "b")
    hosts.pools["h0"].stop()
    hosts.run()
    assert done == []
    assert hosts.site.moved.num_bytes == 0


def test_bytes_in_memory_are_summed_over_time():
    hosts = Hosts()
    pool = hosts.pools["h0"]
    pool.hold(ADAPTERS["b"])
    hosts.clock.at(3.0, lambda: pool.release("b"))
    hosts.clock.at(5.0, lambda: None)
    hosts.run()
    assert pool.byte_seconds() == 3.0 * 2 * PAGE
    assert (pool.max_bytes, pool.max_adapters) == (2 * PAGE, 1)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 50),
            st.sampled_from(("h0", "h1", "h2")),
            st.sampled_from(sorted(RANKS)),
            st.sampled_from(("ensure", "order", "drop")),
        ),
        max_size=40,
    )
)
def test_bytes_that_moved_are_those_of_the_copies_that_came(asked):
    hosts, done = Hosts(3), []

    def act(host, version, what):
        if what == "drop":
            hosts.pools[host].known.pop(version, None)
            hosts.pools[host].release(version)
        else:
            done.append(hosts.ask(host, version, "h0", "h1", "h2", ordered=what == "order"))

    for tenths, host, version, what in asked:
        hosts.clock.at(tenths / 10, partial(act, host, version, what))
    hosts.run()
    moved = hosts.site.moved
    assert moved.num_bytes == sum(ADAPTERS[version].num_bytes for _, _, version in hosts.came)
    assert moved.num_copies == len(hosts.came)
    assert all(len(one) == 1 for one in done)
