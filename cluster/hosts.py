"""Who is in the cluster and who holds which adapter. Owns: what hosts said of themselves. Does not: give orders."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cluster.events import HostBeat, HostJoined
from cluster.view import HostName, HostState, HostView
from lorajax.spec import Level, Version


class Hosts:
    """Every host that was heard of.

    Invariant: a host's `copies` lack what it was told to drop; `holders` are those hosts that live and have a copy.
    Owner: the coordinator.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._views: dict[HostName, HostView] = {}
        self._holders: dict[Version, dict[HostName, None]] = {}
        self._leaving: dict[HostName, set[Version]] = {}
        self._draining: set[HostName] = set()

    def views(self) -> Mapping[HostName, HostView]:
        """Every host, by name; lost ones too."""
        return {name: self._views[name] for name in sorted(self._views)}

    def view(self, host: HostName) -> HostView | None:
        """One host; None where it was never heard of."""
        return self._views.get(host)

    def serving(self) -> tuple[HostView, ...]:
        """The hosts that requests may be sent to, by name."""
        return tuple(view for view in self.views().values() if view.state is HostState.SERVING)

    def is_serving(self, host: HostName) -> bool:
        """Whether requests may be sent to the host."""
        return host in self._views and self._views[host].state is HostState.SERVING

    def holders(self, version: Version) -> tuple[HostView, ...]:
        """The living hosts with a copy in memory, by name."""
        return tuple(self._views[name] for name in sorted(self._holders.get(version, ())))

    def copies(self) -> Iterator[tuple[HostName, Version]]:
        """Every copy in the memory of a living host."""
        for version in sorted(self._holders):
            for name in sorted(self._holders[version]):
                yield name, version

    def is_leaving(self, host: HostName, version: Version) -> bool:
        """Whether the host was told to drop its copy and may not have done so yet."""
        return version in self._leaving.get(host, ())

    def join(self, event: HostJoined) -> None:
        """Take a new host, a new life of a known one, or a new connection of one that goes on as it was."""
        name, old = event.spec.name, self._views.get(event.spec.name)
        self._leaving.pop(name, None)
        if old is None or old.spec.incarnation != event.spec.incarnation:
            self._draining.discard(name)
        state = self._believed(name, event.state)
        self._put(HostView(spec=event.spec, state=state, last_beat_s=event.now_s, copies=dict(event.copies)))

    def beat(self, event: HostBeat) -> None:
        """Believe what a known host says; one that was told to drain does not serve again in this life."""
        view = self._views[event.host]
        copies = view.copies
        if event.copies is not None:
            leaving = self._leaving.get(event.host, set())
            leaving &= event.copies.keys()  # what is no longer reported has gone
            copies = {version: level for version, level in event.copies.items() if version not in leaving}
        state = self._believed(event.host, event.state)
        self._put(replace(view, state=state, load=event.load, last_beat_s=event.now_s, copies=copies))

    def lose(self, host: HostName) -> None:
        """Count a host as lost until it speaks again."""
        self._put(replace(self._views[host], state=HostState.LOST))

    def drain(self, host: HostName) -> None:
        """Send a host nothing more."""
        self._draining.add(host)
        self._put(replace(self._views[host], state=HostState.DRAINING))

    def is_told_to_drain(self, host: HostName) -> bool:
        """Whether the host was, or is soon to be, told to drain in this life."""
        return host in self._draining

    def undrain(self, host: HostName) -> None:
        """Believe the host again: it could not be told to drain."""
        self._draining.discard(host)

    def gain(self, host: HostName, version: Version) -> None:
        """Know of one more copy, unless it is about to go."""
        view = self._views[host]
        if not view.holds(version) and not self.is_leaving(host, version):
            self._put(replace(view, copies={**view.copies, version: Level.HOST}))

    def drop(self, host: HostName, version: Version) -> None:
        """Count no more on a copy, from the moment it is told to go."""
        self._leaving.setdefault(host, set()).add(version)
        view = self._views[host]
        self._put(replace(view, copies={one: level for one, level in view.copies.items() if one != version}))

    def dropped(self, host: HostName, version: Version, *, is_gone: bool) -> None:
        """Hear that a copy has gone, or was kept after all."""
        self._leaving.get(host, set()).discard(version)
        if not is_gone:
            self.gain(host, version)

    def silent(self, since_s: float) -> tuple[HostName, ...]:
        """The living hosts that have said nothing since then, by name."""
        return tuple(
            name
            for name, view in self.views().items()
            if view.state is not HostState.LOST and view.last_beat_s < since_s
        )

    def forget(self, before_s: float) -> list[HostName]:
        """Forget the hosts that have been lost since before then; returns them."""
        gone = [
            name for name, view in self._views.items() if view.state is HostState.LOST and view.last_beat_s < before_s
        ]
        for name in gone:
            del self._views[name]
            self._leaving.pop(name, None)
            self._draining.discard(name)
        return gone

    def _believed(self, host: HostName, state: HostState) -> HostState:
        return HostState.DRAINING if state is HostState.SERVING and host in self._draining else state

    def _put(self, view: HostView) -> None:
        name, old = view.spec.name, self._views.get(view.spec.name)
        self._views[name] = view
        if old is not None and old.copies is view.copies and old.state == view.state:
            return  # most beats
        before, after = _in_memory(old), _in_memory(view)
        for version in before - after:
            del self._holders[version][name]
            if not self._holders[version]:
                del self._holders[version]
        for version in after - before:
            self._holders.setdefault(version, {})[name] = None


def _in_memory(view: HostView | None) -> set[Version]:
    if view is None or view.state is HostState.LOST:
        return set()
    return {version for version, level in view.copies.items() if level is not Level.STORE}
