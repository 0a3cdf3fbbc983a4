"""Hosts without processes: they remember their orders, carry them out when told to, and say so as real hosts do."""

from dataclasses import dataclass, field

from cluster import events
from cluster.view import HostLoad, HostName, HostSpec, HostState
from lorajax.errors import Unavailable
from lorajax.spec import AdapterSpec, Level, Version


@dataclass(frozen=True)
class Folder:
    version: Version
    rank: int = 8
    num_bytes: int = 100


@dataclass
class FakeHost:
    spec: HostSpec
    state: HostState = HostState.SERVING
    memory: set[Version] = field(default_factory=set)
    orders: dict[int, events.HostCommand] = field(default_factory=dict)
    is_silent: bool = False
    load: HostLoad = field(default_factory=HostLoad)

    @property
    def name(self) -> HostName:
        return self.spec.name

    def copies(self):
        return dict.fromkeys(sorted(self.memory), Level.HOST)

    def joined(self, now_s):
        return events.HostJoined(spec=self.spec, state=self.state, copies=self.copies(), now_s=now_s)

    def beat(self, now_s, tokens=None):
        return events.HostBeat(
            host=self.name,
            incarnation=self.spec.incarnation,
            state=self.state,
            load=self.load,
            tokens=tokens or {},
            copies=self.copies(),
            now_s=now_s,
        )

    def left(self, now_s):
        return events.HostLeft(host=self.name, incarnation=self.spec.incarnation, now_s=now_s)

    def will_drop(self, version):
        return any(isinstance(one, events.DropAdapter) and one.version == version for one in self.orders.values())

    def carry_out(self, number, folders):
        """Do what one order says; returns its outcome."""
        match self.orders.pop(number):
            case events.ReadFolder(path=path):
                if path not in folders:
                    return events.CommandFailed(number=number, error=Unavailable(f"{path} is not there"))
                found = folders[path]
                self.memory.add(found.version)
                spec = AdapterSpec(
                    version=found.version, rank=found.rank, targets=("q_proj",), num_bytes=found.num_bytes
                )
                return events.FolderRead(number=number, spec=spec)
            case events.FetchAdapter(adapter=adapter):
                self.memory.add(adapter.version)
            case events.DropAdapter(version=version):
                self.memory.discard(version)
            case events.DrainHost():
                self.state = HostState.DRAINING
        return events.Done(number=number)


def host_spec(name, incarnation=1, **changes):
    values = {"host_bytes": 1000, "num_adapter_pages": 64, "max_sequences": 4} | changes
    return HostSpec(name=HostName(name), address=f"{name}:1", incarnation=incarnation, **values)
