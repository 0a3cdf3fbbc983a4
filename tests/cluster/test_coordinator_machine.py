"""The coordinator against random events: hosts that come, go and stop, calls, outcomes, its own restarts."""

from collections import Counter
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster import events
from cluster.coordinator import Coordinator, CoordinatorConfig
from cluster.operating_points import DEFAULT
from cluster.rounds import RoundConfig
from cluster.view import HostState, Share
from lorajax.errors import MalformedAdapter
from tests.cluster.fake_hosts import FakeHost, Folder, host_spec

HOSTS = ("a", "b", "c", "d")
NAMES = ("n1", "n2", "n3")
FOLDERS = {f"/{number}": Folder(f"v{number}", num_bytes=40 * number) for number in range(1, 5)}
HOST = st.sampled_from(HOSTS)
NAME = st.sampled_from(NAMES)
FLAG = st.booleans()


class AnyPolicy:
    """Any shares at all: spares, missing adapters, hosts left out; the same for the same seed."""

    def __init__(self, seed):
        self._random = Random(seed)

    def __call__(self, given):
        return {version: self._shares(given.hosts) for version in given.adapters if self._random.random() < 0.8}

    def _shares(self, hosts):
        some = self._random.sample(hosts, self._random.randint(1, len(hosts)))
        parts = [self._random.choice((0.0, 1.0, 2.0)) for _ in some]
        return tuple(Share(view.spec.name, part / (sum(parts) or 1.0)) for view, part in zip(some, parts, strict=True))


class Cluster(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 2**16),
        num_hosts=st.integers(0, 4),
        min_copies=st.integers(1, 2),
        budget_bytes=st.sampled_from((0, 100, 10**9)),
    )
    def start(self, seed, num_hosts, min_copies, budget_bytes):
        self.seed = seed
        self.config = CoordinatorConfig(
            min_copies=min_copies,
            interval_s=5.0,
            rounds=RoundConfig(budget_bytes=budget_bytes, drop_after_s=2.0, fetches_per_host=1),
        )
        self.now_s = 0.0
        self.hosts = {}
        self.incarnations = Counter()
        self.saved = {}
        self.round = 0
        self.calls = 0
        self.loads = {}
        self.last_load = {}
        self.tickets = {}
        self.void = set()
        self.last_ticket = 0
        self.begin()
        for name in HOSTS[:num_hosts]:
            self.join(name, is_starting=False, keeps_memory=False, can_collect=True)
        self.wait(4)
        for name, path in zip(NAMES, sorted(FOLDERS), strict=False):
            for host in self.hosts.values():
                host.memory.add(FOLDERS[path].version)  # as requests bring copies to hosts outside the plan
            self.load(name, path, replace=False, pin=False)
        self.carry_out_all()

    def begin(self):
        self.pair = [Coordinator(self.config, DEFAULT, AnyPolicy(self.seed)) for _ in range(2)]
        self.waiting = set()
        self.numbers = set()
        self.is_published = False
        registrations = tuple(self.saved[name] for name in sorted(self.saved))
        self.step(events.Restored(registrations=registrations, round=self.round))

    @property
    def table(self):
        return self.pair[0].table()

    def step(self, event):
        ours, twins = (one.step(event) for one in self.pair)
        assert repr(ours) == repr(twins)  # errors are equal only to themselves
        for name, host in self.hosts.items():
            if name in self.table.hosts and self.table.hosts[name].state is HostState.LOST:
                self.void.update(host.orders)
        for command in ours:
            self.carry(command)

    def carry(self, command):
        match command:
            case events.Save(registration=one):
                self.saved[one.name] = one
            case events.Forget(name=name):
                del self.saved[name]
            case events.Publish():
                self.is_published = True
                self.round = self.table.round
            case events.Answer(call=call) | events.Refuse(call=call):
                self.waiting.remove(call)
                if call in self.loads and isinstance(command, events.Answer):
                    self.check_load(call, command.registration)
            case _:
                self.order(command)

    def order(self, command):
        assert command.number not in self.numbers
        self.numbers.add(command.number)
        host = self.hosts[command.host]
        assert self.table.hosts[command.host].state is not HostState.LOST
        if isinstance(command, events.DropAdapter):
            self.check_drop(command)
        if isinstance(command, events.FetchAdapter):
            assert command.host not in command.peers
            assert not host.will_drop(command.adapter.version)
            assert not self.is_fetching(host, command.adapter)
        if isinstance(command, events.FetchAdapter) and command.ticket is not None:
            assert command.ticket > self.last_ticket
            self.last_ticket = command.ticket
            self.tickets[command.ticket] = (command.adapter.version, command.host, command.peers[0])
        if isinstance(command, events.SendAdapter):
            assert self.tickets.pop(command.ticket) == (command.version, command.target, command.host)
        host.orders[command.number] = command

    def is_fetching(self, host, adapter):
        fetches = (one for one in host.orders.values() if isinstance(one, events.FetchAdapter))
        return any(one.adapter == adapter and one.number not in self.void for one in fetches)

    def check_load(self, call, registration):
        """What was asked for was registered, in the order in which it was asked for."""
        name, path = self.loads[call]
        assert (registration.name, registration.adapter.version) == (name, FOLDERS[path].version)
        assert call > self.last_load.get(name, 0)
        self.last_load[name] = call

    def check_drop(self, command):
        table, version = self.table, command.version
        if version not in {one.adapter.version for one in table.registrations.values()}:
            return
        assert all(share.host != command.host for share in table.shares[version])
        serving = (name for name, view in table.hosts.items() if view.state is HostState.SERVING)
        others = [self.hosts[name] for name in serving if name != command.host]
        kept = [host for host in others if version in host.memory and not host.will_drop(version)]
        assert len(kept) >= self.config.min_copies

    def call(self, make, **fields):
        self.calls += 1
        self.waiting.add(self.calls)
        self.step(make(call=self.calls, **fields))

    @rule(name=HOST, is_starting=FLAG, keeps_memory=FLAG, can_collect=FLAG)
    def join(self, name, is_starting, keeps_memory, can_collect):
        self.incarnations[name] += 1
        old = self.hosts.get(name)
        memory = set(old.memory) if old and keeps_memory else set()
        state = HostState.STARTING if is_starting else HostState.SERVING
        spec = host_spec(name, self.incarnations[name], can_collect=can_collect)
        self.hosts[name] = FakeHost(spec, state, memory)
        self.step(self.hosts[name].joined(self.now_s))

    @precondition(lambda self: self.hosts)
    @rule(data=st.data())
    def kill(self, data):
        host = self.hosts.pop(data.draw(st.sampled_from(sorted(self.hosts))))
        self.step(host.left(self.now_s))

    @precondition(lambda self: self.hosts)
    @rule(data=st.data(), is_silent=FLAG)
    def stop_or_continue(self, data, is_silent):
        self.hosts[data.draw(st.sampled_from(sorted(self.hosts)))].is_silent = is_silent

    @rule(name=HOST, incarnation=st.integers(0, 2))
    def speak_from_an_earlier_life(self, name, incarnation):
        if incarnation < self.incarnations[name] and name in self.table.hosts:
            ghost = FakeHost(host_spec(name, incarnation), memory={"v1", "v2"})
            before = self.table.hosts
            self.step(ghost.joined(self.now_s))
            self.step(ghost.beat(self.now_s))
            self.step(ghost.left(self.now_s))
            assert self.table.hosts == before

    @rule(tokens=st.dictionaries(st.sampled_from(("v1", "v2", "v9")), st.integers(0, 1000)))
    def beat(self, tokens):
        for host in self.hosts.values():
            if not host.is_silent:
                if host.state is HostState.STARTING:
                    host.state = HostState.SERVING
                self.step(host.beat(self.now_s, tokens))

    @rule(num_ticks=st.sampled_from((1, 4, 12, 30)))
    def wait(self, num_ticks):
        for _ in range(num_ticks):
            self.now_s += 0.5
            self.beat({})
            self.step(events.Tick(now_s=self.now_s))

    @rule()
    def sleep(self):
        self.now_s += 20.0
        self.step(events.Tick(now_s=self.now_s))

    @rule(data=st.data(), works=FLAG)
    def carry_out_one(self, data, works):
        orders = [(name, number) for name in sorted(self.hosts) for number in sorted(self.hosts[name].orders)]
        if orders:
            self.carry_out(*data.draw(st.sampled_from(orders)), works=works)

    @rule()
    def carry_out_all(self):
        for name in sorted(self.hosts):
            for number in sorted(self.hosts[name].orders):
                self.carry_out(name, number)

    def carry_out(self, name, number, *, works=True):
        host = self.hosts[name]
        if host.is_silent:
            return
        if works:
            outcome = host.carry_out(number, FOLDERS)
            self.step(host.beat(self.now_s))
        else:
            del host.orders[number]
            outcome = events.CommandFailed(number=number, error=MalformedAdapter("as was drawn"))
        self.step(outcome)

    @rule(name=NAME, path=st.sampled_from(sorted(FOLDERS)), replace=FLAG, pin=FLAG)
    def load(self, name, path, replace, pin):
        self.loads[self.calls + 1] = (name, path)
        self.call(events.LoadAsked, name=name, path=path, replace=replace, pin=pin)

    @rule(name=NAME, force=FLAG)
    def unload(self, name, force):
        self.call(events.UnloadAsked, name=name, force=force)

    @rule(name=NAME, pin=FLAG)
    def pin(self, name, pin):
        self.call(events.PinAsked, name=name, pin=pin)

    @rule(host=HOST, is_drain=FLAG)
    def drain_or_rebalance(self, host, is_drain):
        self.call(events.DrainAsked, host=host) if is_drain else self.call(events.RebalanceAsked)

    @rule()
    def restart(self):
        self.begin()
        for host in self.hosts.values():
            host.orders.clear()  # what an earlier coordinator ordered is not carried out
            self.step(host.joined(self.now_s))

    @invariant()
    def shares_sum_to_one_over_serving_hosts(self):
        if not getattr(self, "is_published", False):
            return
        table = self.table
        serving = {name for name, view in table.hosts.items() if view.state is HostState.SERVING}
        for one in table.registrations.values():
            shares = table.shares.get(one.adapter.version, ())
            assert {share.host for share in shares} <= serving
            assert not serving or abs(sum(share.share for share in shares) - 1) < 1e-6

    @invariant()
    def what_is_saved_is_what_is_registered(self):
        if hasattr(self, "pair"):
            assert self.table.registrations == self.saved

    def teardown(self):
        if not hasattr(self, "pair"):
            return
        for host in self.hosts.values():
            host.is_silent = False
        self.join("z", is_starting=False, keeps_memory=False, can_collect=False)
        for _ in range(6):
            self.wait(12)
            for _ in range(8):
                self.carry_out_all()
        assert not self.waiting
        serving = [host for host in self.hosts.values() if host.state is HostState.SERVING]
        known = {one.adapter.version for one in self.saved.values()}
        for version in known:
            assert sum(version in host.memory for host in serving) >= min(self.config.min_copies, len(serving))
        assert all(host.memory <= known for host in serving)


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
