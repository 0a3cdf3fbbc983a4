"""Text traces of the coordinator: what happens, `----`, what it orders. A line of input is a verb and its words.

folder PATH VERSION [rank=8] [bytes=100]       what a host would find there
plan VERSION HOST=SHARE ...                    what the policy answers from now on (else: what it answered before)
restored [round=N] [NAME=PATH ...]             the coordinator starts; PATH must be a known folder
join HOST [incarnation=1] [collect] [starting] [holds=VERSION,...]
state HOST STATE | tokens HOST VERSION=N ... | wait SECONDS | kill HOST | stop HOST | continue HOST
done #N ... | fail #N ERROR MESSAGE            a host carries orders out, or cannot
load CALL NAME PATH [replace] [pin] | unload CALL NAME [force] | pin CALL NAME | unpin CALL NAME
drain CALL HOST | rebalance CALL

`python -m tests.cluster.trace_rig FILE ...` writes into the files what the coordinator says today.
"""

import shlex
import sys
from pathlib import Path

from cluster import events
from cluster.coordinator import Coordinator, CoordinatorConfig
from cluster.operating_points import DEFAULT
from cluster.rounds import RoundConfig
from cluster.view import Adapter, HostName, HostState, Registration, Share
from lorajax import errors
from tests.cluster.fake_hosts import FakeHost, Folder, host_spec

LIFE = 2**24
CONFIG = CoordinatorConfig(interval_s=10.0, rounds=RoundConfig(budget_bytes=250, drop_after_s=5.0))


class Story:
    """One coordinator, its hosts and its clock."""

    def __init__(self):
        self.now_s = 0.0
        self.hosts = {}
        self.folders = {}
        self.plans = {}
        self.printed = {}
        self.start()

    def start(self):
        self.coordinator = Coordinator(CONFIG, DEFAULT, lambda given: {**given.previous, **self.plans})

    def play(self, line):
        verb, *words = shlex.split(line)
        return getattr(self, f"do_{verb}")(*words)

    def step(self, event):
        commands = self.coordinator.step(event)
        for command in commands:
            if isinstance(command, events.HostCommand.__value__):
                self.hosts[command.host].orders[command.number] = command
        return [line for command in commands for line in self.told(command)]

    def told(self, command):
        match command:
            case events.Save(registration=one):
                yield f"save {named(one)}"
            case events.Forget(name=name):
                yield f"forget {name}"
            case events.Publish():
                yield from self.published()
            case events.Answer():
                facts = [named(command.registration)] if command.registration else []
                facts += [f"count {command.count}"] if command.count else []
                facts += [f"round {command.round}"] if command.round else []
                yield " ".join((f"answer {command.call}:", *facts))
            case events.Refuse(call=call, error=error):
                yield f"refuse {call}: {type(error).__name__}: {error}"
            case _:
                yield f"{command.host} <- {number(command.number)} {ordered(command)}"

    def published(self):
        table = self.coordinator.table()
        hosts = " ".join(f"{name}:{view.state}" for name, view in table.hosts.items())
        yield f"publish round {table.round}, {hosts}"
        shares = {
            version: " ".join(f"{one.host}={one.share:.2f}" for one in some) for version, some in table.shares.items()
        }
        for version, now in sorted(shares.items()):
            if self.printed.get(version) != now:
                yield f"  {version}: {now or 'nowhere'}"
        self.printed = shares

    def do_folder(self, path, version, *words):
        options = dict(word.split("=") for word in words)
        self.folders[path] = Folder(version, int(options.get("rank", 8)), int(options.get("bytes", 100)))
        return []

    def do_plan(self, version, *shares):
        pairs = (share.split("=") for share in shares)
        self.plans[version] = tuple(Share(HostName(host), float(part)) for host, part in pairs)
        return []

    def do_restored(self, *words):
        options = dict(word.split("=") for word in words)
        self.start()
        round_number = int(options.pop("round", 0))
        registrations = tuple(self.registration(name, path) for name, path in options.items())
        return self.step(events.Restored(registrations=registrations, round=round_number))

    def registration(self, name, path):
        found = self.folders[path]
        adapter = Adapter(version=found.version, rank=found.rank, num_bytes=found.num_bytes, path=path)
        return Registration(name=name, adapter=adapter)

    def do_join(self, name, *words):
        flags = {word for word in words if "=" not in word}
        options = dict(word.split("=") for word in words if "=" in word)
        spec = host_spec(name, int(options.get("incarnation", 1)), can_collect="collect" in flags)
        state = HostState.STARTING if "starting" in flags else HostState.SERVING
        memory = set(filter(None, options.get("holds", "").split(",")))
        self.hosts[name] = FakeHost(spec, state, memory)
        return self.step(self.hosts[name].joined(self.now_s))

    def do_state(self, name, state):
        self.hosts[name].state = HostState(state)
        return self.step(self.hosts[name].beat(self.now_s))

    def do_tokens(self, name, *words):
        tokens = {version: int(count) for version, count in (word.split("=") for word in words)}
        return self.step(self.hosts[name].beat(self.now_s, tokens))

    def do_wait(self, seconds):
        end_s, said = self.now_s + float(seconds), []
        while self.now_s < end_s:
            self.now_s += 0.25
            for host in self.hosts.values():
                if not host.is_silent:
                    said += self.step(host.beat(self.now_s))
            lines = self.step(events.Tick(now_s=self.now_s))
            said += [f"{self.now_s:g} s: {line}" if not line.startswith(" ") else line for line in lines]
        return said

    def do_kill(self, name):
        return self.step(self.hosts.pop(name).left(self.now_s))

    def do_stop(self, name):
        self.hosts[name].is_silent = True
        return []

    def do_continue(self, name):
        self.hosts[name].is_silent = False
        return []

    def do_done(self, *numbers):
        said = []
        for word in numbers:
            host, order = self.order(word)
            outcome = host.carry_out(order, self.folders)
            said += self.step(host.beat(self.now_s)) + self.step(outcome)
        return said

    def do_fail(self, word, kind, message):
        host, order = self.order(word)
        del host.orders[order]
        return self.step(events.CommandFailed(number=order, error=getattr(errors, kind)(message)))

    def order(self, word):
        return next((host, one) for host in self.hosts.values() for one in host.orders if number(one) == word)

    def do_load(self, call, name, path, *flags):
        return self.step(
            events.LoadAsked(call=int(call), name=name, path=path, replace="replace" in flags, pin="pin" in flags)
        )

    def do_unload(self, call, name, *flags):
        return self.step(events.UnloadAsked(call=int(call), name=name, force="force" in flags))

    def do_pin(self, call, name):
        return self.step(events.PinAsked(call=int(call), name=name, pin=True))

    def do_unpin(self, call, name):
        return self.step(events.PinAsked(call=int(call), name=name, pin=False))

    def do_drain(self, call, name):
        return self.step(events.DrainAsked(call=int(call), host=name))

    def do_rebalance(self, call):
        return self.step(events.RebalanceAsked(call=int(call)))


def named(one):
    return f"{one.name} = {one.adapter.version}{' pinned' if one.is_pinned else ''}"


def number(value):
    life, own = divmod(value, LIFE)
    return f"#{life}.{own}" if life else f"#{own}"


def ordered(command):
    match command:
        case events.ReadFolder(path=path):
            return f"read {path}"
        case events.FetchAdapter(adapter=adapter, peers=peers, ticket=ticket):
            turn = f" by ticket {number(ticket)}" if ticket else ""
            return f"fetch {adapter.version} from {', '.join((*peers, adapter.path))}{turn}"
        case events.SendAdapter(version=version, target=target, ticket=ticket):
            return f"send {version} to {target} by ticket {number(ticket)}"
        case events.DropAdapter(version=version):
            return f"drop {version}"
        case events.PinAdapter(version=version, pin=pin):
            return f"{'pin' if pin else 'unpin'} {version}"
        case events.DrainHost():
            return "drain"


def blocks(text):
    """(comment lines, input lines, expected lines) of every block of a trace."""
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        comments = [line for line in lines if line.startswith("# ")]
        rest = [line for line in lines if not line.startswith("# ")]
        at = rest.index("----") if "----" in rest else len(rest)
        yield comments, rest[:at], rest[at + 1 :]


def played(text):
    """The trace with what the coordinator says today."""
    story, written = Story(), []
    for comments, given, _ in blocks(text):
        said = [line for one in given for line in story.play(one)]
        written.append("\n".join((*comments, *given, *(("----", *(said or ["nothing"])) if given else ()))))
    return "\n\n".join(written) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(played(Path(name).read_text()))
