"""Scheduler, residency and pools against random traffic, over a device that notices every wrong page."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lorajax.errors import AdapterError, BadRequest, Overloaded
from lorajax.spec import Finished, Level
from tests.lorajax.fake_device import World, adapter, limits, request

NAMES = ("a", "b", "c", "d", "e")
PAGES = {"a": 1, "b": 2, "c": 3, "d": 5, "e": 1}
# No copy of "e" but the one in host memory.
STORED = ("a", "b", "c", "d")

ASK = st.tuples(
    st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    st.sampled_from((None, None, None, 5, 20)),
    st.fixed_dictionaries(
        {
            "prompt": st.lists(st.integers(0, 9), min_size=1, max_size=16),
            "max_tokens": st.integers(1, 20),
            "priority": st.sampled_from((0, 0, 0, 1)),
            "ignore_eos": st.booleans(),
            "presence_penalty": st.sampled_from((0.0, 1.0)),
        }
    ),
)


class Traffic(RuleBasedStateMachine):
    @initialize(
        num_kv_pages=st.integers(8, 14),
        num_adapter_pages=st.integers(6, 10),
        host_adapter_bytes=st.integers(10, 120),
        max_queue=st.integers(4, 30),
    )
    def start(self, **sizes):
        self.world = World(limits(**sizes))
        self.num_asked = 0
        self.pending = None
        self.pinned_pages = {}
        for name in NAMES:
            self.world.register(adapter(name, PAGES[name]), has_store=name in STORED)

    @property
    def residency(self):
        return self.world.scheduler.residency

    @rule(asks=st.lists(ASK, min_size=1, max_size=6))
    def add(self, asks):
        for adapters, patience_s, changes in asks:
            self.num_asked += 1
            deadline_s = None if patience_s is None else self.world.now_s + patience_s
            asked = request(f"r{self.num_asked}", *adapters, deadline_s=deadline_s, **changes)
            try:
                self.world.add(asked)
            except (BadRequest, AdapterError, Overloaded):
                assert asked.id not in self.world.requests

    @precondition(lambda self: self.pending is None)
    @rule()
    def plan(self):
        self.pending = self.world.plan()
        self.world.now_s += 1

    @precondition(lambda self: self.pending is not None)
    @rule()
    def commit(self):
        self.world.commit(self.pending)
        self.pending = None

    @precondition(lambda self: self.pending is None)
    @rule(num_steps=st.integers(1, 12))
    def steps(self, num_steps):
        for _ in range(num_steps):
            self.world.step()
            while self.world.fetching:
                self.world.fetch()

    @precondition(lambda self: self.world.live())
    @rule(data=st.data())
    def cancel(self, data):
        self.world.cancel(data.draw(st.sampled_from(self.world.live())))

    @precondition(lambda self: self.world.fetching)
    @rule(data=st.data(), works=st.booleans())
    def end_fetch(self, data, works):
        index = data.draw(st.integers(0, len(self.world.fetching) - 1))
        if works:
            self.world.fetch(index)
        else:
            self.pinned_pages.pop(self.world.fetching[index], None)
            self.world.fail_fetch(index)

    @rule(name=st.sampled_from(NAMES))
    def pin(self, name):
        try:
            self.residency.pin(name)
        except AdapterError:
            return
        self.pinned_pages.setdefault(name, ())

    @rule(name=st.sampled_from(NAMES))
    def unpin(self, name):
        self.pinned_pages.pop(name, None)
        self.residency.unpin(name)

    @rule(name=st.sampled_from(STORED))
    def replace(self, name):
        self.pinned_pages.pop(name, None)
        num_users = sum(name in dict(self.world.requests[id].adapters) for id in self.world.live())
        assert self.residency.remove(name) == (num_users == 0)
        self.world.register(adapter(name, PAGES[name]))

    @invariant()
    def pinned_adapters_keep_their_pages(self):
        for name, pages in self.pinned_pages.items():
            if self.residency.levels()[name] is Level.DEVICE:
                now = self.residency.pages(name)
                assert pages in ((), now)
                self.pinned_pages[name] = now
            else:
                assert pages == ()

    @invariant()
    def last_copy_stays_in_host_memory(self):
        assert "e" in self.world.in_host

    @invariant()
    def adapter_pages_are_free_or_owned_once(self):
        owned = [page for name in NAMES for page in self.residency.pages(name)]
        assert len(set(owned)) == len(owned)
        assert len(owned) + self.residency.num_free_pages == self.residency.num_total_pages

    def teardown(self):
        if not hasattr(self, "world"):
            return
        if self.pending is not None:
            self.commit()
        for name in list(self.pinned_pages):
            self.unpin(name)
        self.world.run()
        assert not self.world.live()
        stats = self.world.scheduler.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.kv_pages_free == stats.kv_pages_total
        for name in NAMES:
            assert self.residency.remove(name)
        assert self.residency.num_free_pages == self.residency.num_total_pages
        self.world.run()
        assert not self.world.in_host


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(ASK, min_size=4, max_size=16), st.sampled_from(NAMES))
def test_crowd_on_tight_pools_answers_each_as_alone(asks, pinned):
    world = World(limits(num_kv_pages=10, num_adapter_pages=8, host_adapter_bytes=50))
    for name in NAMES:
        world.register(adapter(name, PAGES[name]), has_store=name in STORED)
    world.scheduler.residency.pin(pinned)
    for number, (adapters, _, changes) in enumerate(asks):
        if sum(PAGES[name] for name in {pinned, *adapters}) <= 7:
            world.add(request(f"r{number}", *adapters, **changes))
    world.run()
    assert all(isinstance(end, Finished) for end in world.ended.values())
    assert not world.live()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
