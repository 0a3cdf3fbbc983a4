"""The adapters that requests can name. Owns: names, their versions, and how many requests use each version.

Does not: read adapters, hold their arrays, or tell the engine (cluster/worker_adapters.py does).
"""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.names import unknown
from lorajax.errors import AdapterExists, AdapterInUse, Overloaded, UnknownAdapter
from lorajax.spec import AdapterSpec, Version

MAX_NAMES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one name stands for."""

    name: str
    spec: AdapterSpec
    source: Path | None
    """Its durable copy, where this host can read that."""
    is_pinned: bool


class Catalogue:
    """Names to adapter versions.

    Invariant: a version is known exactly as long as a name stands for it or a request uses it.
    Owner: the worker's event loop. Not thread-safe.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._entries: dict[str, Entry] = {}
        self._sorted: list[str] = []
        self._num_names: Counter[Version] = Counter()
        self._num_uses: Counter[Version] = Counter()

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, by name."""
        return tuple(self._entries[name] for name in self._sorted)

    def __contains__(self, name: object) -> bool:
        """Whether the name stands for an adapter."""
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """What `name` stands for. Raises UnknownAdapter with the three nearest names."""
        if name in self._entries:
            return self._entries[name]
        raise UnknownAdapter(unknown(name, self._sorted))

    def is_known(self, version: Version) -> bool:
        """Whether a name stands for the version or a request uses it."""
        return self._num_names[version] > 0 or self._num_uses[version] > 0

    def is_pinned(self, version: Version) -> bool:
        """Whether any of the version's names is pinned."""
        return any(entry.is_pinned for entry in self._entries.values() if entry.spec.version == version)

    def num_uses(self, version: Version) -> int:
        """Requests that use the version now."""
        return self._num_uses[version]

    def proposal(self, entry: Entry, *, replace: bool) -> Entry:
        """The entry as `put` would keep it: a name that was pinned stays so, the same content keeps its first source.

        Raises: AdapterExists if the name has other content and not `replace`; Overloaded at MAX_NAMES.
        """
        old = self._entries.get(entry.name)
        if old is None:
            if len(self._entries) >= MAX_NAMES:
                raise Overloaded(f"{MAX_NAMES} adapters are loaded; unload some first")
            return entry
        is_pinned = old.is_pinned or entry.is_pinned
        if old.spec.version == entry.spec.version:
            return dataclasses.replace(old, is_pinned=is_pinned)
        if not replace:
            raise AdapterExists(
                f"adapter {entry.name!r} has other content ({old.spec.version[:12]}); set replace (HTTP: load_inplace)"
            )
        return dataclasses.replace(entry, is_pinned=is_pinned)

    def put(self, entry: Entry) -> Version | None:
        """Make the name stand for a `proposal`; returns the version it stood for before, if any."""
        old = self._entries.get(entry.name)
        self._entries[entry.name] = entry
        self._num_names[entry.spec.version] += 1
        if old is None:
            bisect.insort(self._sorted, entry.name)
            return None
        self._decrease(self._num_names, old.spec.version)
        return old.spec.version

    def pin(self, name: str, *, is_pinned: bool) -> Entry:
        """Set the name's pin. Raises UnknownAdapter."""
        entry = self._entries[name] = dataclasses.replace(self.entry(name), is_pinned=is_pinned)
        return entry

    def remove(self, name: str, *, force: bool) -> Entry:
        """Forget the name at once; requests that use its version keep it known.

        Raises: UnknownAdapter; AdapterInUse if requests use the version, no other name stands for it, and not `force`.
        """
        entry = self.entry(name)
        version, uses = entry.spec.version, self._num_uses[entry.spec.version]
        if uses and self._num_names[version] == 1 and not force:
            raise AdapterInUse(
                f"{uses} requests use adapter {name!r}; wait for them, or set force to let them finish on it"
            )
        del self._entries[name]
        del self._sorted[bisect.bisect_left(self._sorted, name)]
        self._decrease(self._num_names, version)
        return entry

    def acquire(self, names: Iterable[str]) -> tuple[Version, ...]:
        """Use the adapters' present versions until `release`. Raises UnknownAdapter, and then uses none."""
        versions = tuple(self.entry(name).spec.version for name in names)
        self._num_uses.update(versions)
        return versions

    def release(self, versions: Iterable[Version]) -> tuple[Version, ...]:
        """End what `acquire` began; returns the versions that are no longer known."""
        versions = tuple(versions)
        for version in versions:
            self._decrease(self._num_uses, version)
        return tuple(version for version in dict.fromkeys(versions) if not self.is_known(version))

    @staticmethod
    def _decrease(counts: Counter[Version], version: Version) -> None:
        counts[version] -= 1
        if counts[version] == 0:
            del counts[version]
