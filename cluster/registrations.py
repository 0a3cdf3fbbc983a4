"""What names stand for in a cluster. Owns: registrations, by name and by version. Does not: know hosts or calls."""

import bisect
import dataclasses
from collections.abc import Mapping

from cluster.names import unknown
from cluster.view import Adapter, Registration
from lorajax.errors import AdapterExists, Overloaded, UnknownAdapter
from lorajax.spec import Version

MAX_NAMES = 100_000


class Registrations:
    """Names to adapter versions.

    Invariant: a version is known exactly as long as a name stands for it.
    Owner: the coordinator.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._registrations: dict[str, Registration] = {}
        self._sorted: list[str] = []
        self._pinned: set[str] = set()
        self._names_of: dict[Version, dict[str, None]] = {}
        self._adapters: dict[Version, Adapter] = {}

    def all(self) -> Mapping[str, Registration]:
        """Every registration, by name."""
        return dict(self._registrations)

    def adapters(self) -> Mapping[Version, Adapter]:
        """Every known version."""
        return self._adapters

    def of(self, name: str) -> Registration:
        """What `name` stands for. Raises UnknownAdapter with up to three near names."""
        if name in self._registrations:
            return self._registrations[name]
        raise UnknownAdapter(unknown(name, self._sorted))

    def get(self, name: str) -> Registration | None:
        """What `name` stands for; None where nothing."""
        return self._registrations.get(name)

    def names_of(self, version: Version) -> tuple[str, ...]:
        """The names that stand for a version, oldest first."""
        return tuple(self._names_of.get(version, ()))

    def pinned(self) -> tuple[Version, ...]:
        """The versions with a pinned name."""
        return tuple(dict.fromkeys(self._registrations[name].adapter.version for name in sorted(self._pinned)))

    def proposal(self, new: Registration, *, replace: bool) -> Registration:
        """The registration as `put` would keep it: a pin stays, and so does the store of the same content.

        With `replace` the same content is taken from its new store.

        Raises: AdapterExists if the name has other content and not `replace`; Overloaded at MAX_NAMES.
        """
        old = self._registrations.get(new.name)
        if old is None:
            if len(self._registrations) >= MAX_NAMES:
                raise Overloaded(f"{MAX_NAMES} adapters are loaded; unload some first")
            return new
        is_pinned = old.is_pinned or new.is_pinned
        if old.adapter.version == new.adapter.version and not replace:
            return dataclasses.replace(old, is_pinned=is_pinned)
        if old.adapter.version != new.adapter.version and not replace:
            raise AdapterExists(
                f"adapter {new.name!r} has other content ({old.adapter.version[:12]}); set replace (HTTP: load_inplace)"
            )
        return dataclasses.replace(new, is_pinned=is_pinned)

    def put(self, new: Registration) -> Version | None:
        """Make the name stand for a `proposal`; returns the version that it has left without any name, if any."""
        old = self._registrations.get(new.name)
        self._registrations[new.name] = new
        (self._pinned.add if new.is_pinned else self._pinned.discard)(new.name)
        version = new.adapter.version
        names = self._names_of.get(version, {})
        has_moved = new.name in names and old is not None and old.adapter.path != new.adapter.path
        # A store that was named again is known to be there.
        self._names_of[version] = {new.name: None} | names if has_moved else names | {new.name: None}
        self._refresh(version)
        if old is None:
            bisect.insort(self._sorted, new.name)
            return None
        return self._leave(old) if old.adapter.version != version else None

    def remove(self, name: str) -> Version | None:
        """Forget a name; returns its version if no other name stands for it. Raises UnknownAdapter."""
        old = self.of(name)
        del self._registrations[name]
        self._pinned.discard(name)
        del self._sorted[bisect.bisect_left(self._sorted, name)]
        return self._leave(old)

    def _leave(self, old: Registration) -> Version | None:
        version = old.adapter.version
        del self._names_of[version][old.name]
        if self._names_of[version]:
            self._refresh(version)
            return None
        del self._names_of[version], self._adapters[version]
        return version

    def _refresh(self, version: Version) -> None:
        # The store of the oldest name that is left: the others' folders may be gone with their names.
        first = next(iter(self._names_of[version]))
        self._adapters[version] = self._registrations[first].adapter
