"""Calls about names: load, unload, pin. Owns: what each of them changes, and its answer. Does not: read or place."""

from dataclasses import dataclass, replace

from cluster.events import (
    Answer,
    CommandFailed,
    Done,
    FolderRead,
    Forget,
    LoadAsked,
    PinAsked,
    Publish,
    ReadFolder,
    Refuse,
    Save,
    UnloadAsked,
)
from cluster.hosts import Hosts
from cluster.loads import Loads
from cluster.orders import Orders
from cluster.pins import Pins
from cluster.registrations import Registrations
from cluster.rounds import Rounds
from cluster.view import Adapter, Registration
from lorajax.errors import AdapterInUse, LorajaxError
from lorajax.spec import AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NameCalls:
    """What callers may do with names. Raised errors refuse the call; a load is answered once its folder was read.

    Owner: the coordinator.
    """

    hosts: Hosts
    registrations: Registrations
    orders: Orders
    loads: Loads
    pins: Pins
    rounds: Rounds
    min_copies: int
    in_use_s: float

    def load(self, asked: LoadAsked) -> None:
        """Have a host read the folder."""
        self.loads.ask(asked)

    def end_load(self, command: ReadFolder, outcome: FolderRead | Done | CommandFailed, now_s: float) -> None:
        """Register what a host has read, or refuse."""
        asked = self.loads.ended(command.number)
        try:
            if isinstance(outcome, CommandFailed):
                raise outcome.error
            assert isinstance(outcome, FolderRead), "a folder that was read is always described"
            self.hosts.gain(command.host, outcome.spec.version)
            self._register(asked, outcome.spec, now_s)
        except LorajaxError as error:
            self.orders.send(Refuse(call=asked.call, error=error))

    def _register(self, asked: LoadAsked, spec: AdapterSpec, now_s: float) -> None:
        adapter = Adapter(
            version=spec.version,
            rank=spec.rank,
            num_bytes=spec.num_bytes,
            path=asked.path,
            min_copies=self.min_copies,
        )
        new = Registration(name=asked.name, adapter=adapter, is_pinned=asked.pin)
        try:
            self._keep(asked.call, self.registrations.proposal(new, replace=asked.replace), now_s)
        finally:
            if spec.version not in self.registrations.adapters():  # refused: nobody needs what was read
                self.rounds.leave(spec.version, now_s)

    def pin(self, asked: PinAsked, now_s: float) -> None:
        """Pin or unpin. Raises UnknownAdapter."""
        self._keep(asked.call, replace(self.registrations.of(asked.name), is_pinned=asked.pin), now_s)

    def unload(self, asked: UnloadAsked, now_s: float) -> None:
        """Forget the name; its copies go once nothing that was sent by it can still arrive.

        In use is what had tokens in the last `in_use_s`: hosts say so with every beat. A request that has waited longer
        than that for its first token is not seen, and still finishes on its host.
        Raises: UnknownAdapter; AdapterInUse if no other name stands for the version and not `force`.
        """
        registration = self.registrations.of(asked.name)
        version = registration.adapter.version
        is_only_name = self.registrations.names_of(version) == (asked.name,)
        if is_only_name and not asked.force and now_s - self.rounds.used_s(version) <= self.in_use_s:
            raise AdapterInUse(
                f"adapter {asked.name!r} had tokens in the last {self.in_use_s:g} s; wait for its requests, "
                "or set force to let them finish on it"
            )
        self.registrations.remove(asked.name)
        self.orders.send(Forget(name=asked.name))
        self.orders.send(Publish())
        if is_only_name:
            self.rounds.leave(version, now_s)
        self.pins.settle(self.rounds.shares)
        self.orders.send(Answer(call=asked.call, registration=registration))

    def _keep(self, call: int, new: Registration, now_s: float) -> None:
        """Register, and answer the call that wanted it; what is registered already changes nothing."""
        if new != self.registrations.get(new.name):
            old, is_known = self.registrations.get(new.name), new.adapter.version in self.registrations.adapters()
            nameless = self.registrations.put(new)
            self.orders.send(Save(registration=new))
            self.orders.send(Publish())
            if not is_known:
                self.rounds.add(new.adapter.version, replaced=None if old is None else old.adapter.version)
            if nameless is not None:
                self.rounds.leave(nameless, now_s)
            self.pins.settle(self.rounds.shares)
        self.orders.send(Answer(call=call, registration=new))
