"""Where each adapter of this replica is, and what moves next.

Owns: levels STORE -> HOST -> DEVICE, the device pages of every adapter, pins, and who is evicted. Does not: hold or
copy arrays; its decisions come out as records.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import Enum, auto

from lorajax.errors import UnknownAdapter, UnsupportedAdapter
from lorajax.pages import PagePool
from lorajax.plan import Fetch, PageWrite, Release
from lorajax.spec import AdapterSpec, Level, Version


class Standing(Enum):
    """How a request stands with its adapters in this round."""

    READY = auto()
    """All on the device and safe until the round ends."""
    LOADING = auto()
    """All have pages; a fetch or some writes are still to come."""
    SHORT = auto()
    """No room: what is on the device is in use, pinned or claimed earlier."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Entry:
    spec: AdapterSpec
    has_store: bool
    in_host: bool
    is_leaving: bool = False
    num_users: int = 0
    pages: tuple[int, ...] = ()
    num_written: int = 0

    @property
    def is_ready(self) -> bool:
        return self.num_written == self.spec.num_pages

    @property
    def level(self) -> Level:
        if self.is_ready:
            return Level.DEVICE
        return Level.HOST if self.in_host else Level.STORE


class Residency:
    """Where each adapter is. Device pages are given out in rounds, one a step: `begin`, `claim` …, `take_orders`.

    Pages are reserved before a fetch starts, so an adapter that is on its way can no longer lose the race for them.
    Invariants: a claim is safe from later claims of its round; what runs or is pinned keeps its device pages; the host
    copy of an adapter without a store, or of one being written, is never dropped.
    Owner: the scheduler.
    """

    def __init__(self, num_pages: int, host_bytes: int, page_writes_per_step: int) -> None:
        """Manage a device pool of `num_pages` (page 0 counted) and `host_bytes` of host memory."""
        self._pool = PagePool(num_pages)
        self._host_bytes, self._page_writes_per_step = host_bytes, page_writes_per_step
        # From least to most recently used: all that are registered, and those with device pages.
        self._entries: dict[Version, _Entry] = {}
        self._placed: dict[Version, _Entry] = {}
        self._pinned: dict[Version, _Entry] = {}
        # Outlives an entry: an adapter that comes back while its fetch is under way is not fetched twice.
        self._fetching: set[Version] = set()
        self._victims: dict[Version, _Entry] = {}
        self._num_victim_pages = 0
        self._writes: list[PageWrite] = []
        self._fetches: list[Fetch] = []
        self._releases: dict[Version, None] = {}
        self.num_loads = 0

    @property
    def num_free_pages(self) -> int:
        """Device pages that hold no adapter."""
        return self._pool.num_free

    @property
    def num_total_pages(self) -> int:
        """Device pages that adapters can take."""
        return self._pool.num_total

    @property
    def has_pins(self) -> bool:
        """Whether adapters are claimed in every round, even if no request does."""
        return bool(self._pinned)

    def levels(self) -> dict[Version, Level]:
        """Where every registered adapter is."""
        return {version: entry.level for version, entry in self._entries.items()}

    def is_ready(self, versions: Iterable[Version]) -> bool:
        """Whether all of them are on the device now."""
        return all(self._entries[version].is_ready for version in versions)

    def pages(self, version: Version) -> tuple[int, ...]:
        """Device pages of an adapter, in rank order; () where it has none."""
        return self._entries[version].pages

    def register(self, spec: AdapterSpec, *, has_store: bool) -> None:
        """Make an adapter known: in its store, or where it has none, in host memory, which then keeps it.

        An adapter that is on its way out stays. Follow with `adapter_fetched` where the arrays were read already.
        Raises: UnsupportedAdapter if host memory cannot hold one more last copy.
        """
        entry = self._entries.get(spec.version)
        if not has_store and (entry is None or entry.has_store):
            self._check_last_copies(spec)
        if entry is None:
            in_host = spec.version in self._releases
            entry = self._entries[spec.version] = _Entry(spec=spec, has_store=has_store, in_host=in_host)
        entry.is_leaving, entry.has_store = False, has_store
        if not has_store:
            entry.in_host = True
        if entry.in_host:
            self._releases.pop(spec.version, None)
            self._trim_host()

    def remove(self, version: Version) -> bool:
        """Forget an adapter: True if it is gone now, False if it goes when its last request ends.

        From now on no request can name it. Raises: UnknownAdapter.
        """
        entry = self._known(version)
        entry.is_leaving = True
        self._pinned.pop(version, None)
        if entry.num_users:
            return False
        self._forget(entry)
        return True

    def pin(self, version: Version) -> None:
        """Load the adapter and keep it on the device; undone by `unpin`, `remove` and a failed fetch.

        Raises: UnknownAdapter; UnsupportedAdapter where all pinned adapters would not fit together.
        """
        entry = self._known(version)
        if (error := self.misfit((version,))) is not None:
            raise error
        self._pinned[version] = entry

    def unpin(self, version: Version) -> None:
        """Let the adapter be evicted again. Raises: UnknownAdapter."""
        self._known(version)
        self._pinned.pop(version, None)

    def misfit(self, versions: Iterable[Version]) -> UnsupportedAdapter | None:
        """Why these adapters can never be on the device together, beside all that is pinned; None if they can."""
        wanted = {version: self._entries[version].spec.num_pages for version in versions}
        num_pinned = sum(e.spec.num_pages for v, e in self._pinned.items() if v not in wanted)
        num_wanted, num_total = sum(wanted.values()), self._pool.num_total
        if num_wanted + num_pinned <= num_total:
            return None
        return UnsupportedAdapter(
            f"the adapters need {num_wanted} device pages; {num_total - num_pinned} of {num_total} can be had, "
            f"{num_pinned} are pinned for others; raise adapter_bytes or unpin an adapter"
        )

    def join(self, versions: Iterable[Version]) -> None:
        """Count one more accepted request of each; the caller has seen `check_known` pass."""
        for version in versions:
            self._entries[version].num_users += 1

    def leave(self, versions: Iterable[Version]) -> None:
        """Count one request less of each: it has ended and runs no more."""
        for version in versions:
            entry = self._entries[version]
            entry.num_users -= 1
            self._touch(entry)
            if entry.is_leaving and not entry.num_users:
                self._forget(entry)

    def check_known(self, versions: Iterable[Version]) -> None:
        """Raise UnknownAdapter unless new requests may name all of them."""
        for version in versions:
            self._known(version)

    def adapter_fetched(self, version: Version) -> None:
        """Note that the adapter's arrays are in host memory."""
        self._fetching.discard(version)
        entry = self._entries.get(version)
        if entry is None:
            self._releases[version] = None
            return
        entry.in_host = True
        self._releases.pop(version, None)
        self._touch(entry)
        self._trim_host()

    def fetch_failed(self, version: Version) -> bool:
        """Note that the store did not give the adapter; False if it came another way meanwhile, and may be running."""
        if version not in self._fetching:
            return False
        self._fetching.discard(version)
        self._pinned.pop(version, None)
        if (entry := self._entries.get(version)) is not None and not entry.in_host:
            self._evict(entry)
        return True

    def begin(self, running: Set[Version]) -> bool:
        """Open a round in which the adapters of `running` sequences keep their pages, then claim for every pin.

        Returns whether every pinned adapter has its pages; if not, nothing that uses adapters should start.
        """
        keep = running | self._pinned.keys()
        self._victims = {version: entry for version, entry in self._placed.items() if version not in keep}
        self._num_victim_pages = sum(len(entry.pages) for entry in self._victims.values())
        return Standing.SHORT not in [self.claim((version,)) for version in self._pinned]

    def claim(self, versions: Iterable[Version]) -> Standing:
        """Ask for a set of adapters, all or none: keep, evict, reserve, fetch and write what brings it to the device.

        What is claimed is safe for the rest of the round. SHORT changes nothing.
        """
        entries = [self._entries[version] for version in versions]
        num_missing = sum(entry.spec.num_pages for entry in entries if not entry.pages)
        mine = [entry for entry in entries if entry.spec.version in self._victims]
        num_mine = sum(len(entry.pages) for entry in mine)
        if num_missing > self._pool.num_free + self._num_victim_pages - num_mine:
            return Standing.SHORT
        for entry in mine:
            del self._victims[entry.spec.version]
        self._num_victim_pages -= num_mine
        while self._pool.num_free < num_missing:
            self._evict(next(iter(self._victims.values())))
        for entry in entries:
            self._advance(entry)
        return Standing.READY if all(entry.is_ready for entry in entries) else Standing.LOADING

    def take_orders(self) -> tuple[tuple[Release, ...], tuple[Fetch, ...], tuple[PageWrite, ...]]:
        """Close the round: everything decided since the last one, to be carried out in this order."""
        releases = tuple(Release(version=version) for version in self._releases)
        orders = (releases, tuple(self._fetches), tuple(self._writes))
        self._releases, self._fetches, self._writes = {}, [], []
        return orders

    def _known(self, version: Version) -> _Entry:
        entry = self._entries.get(version)
        if entry is None or entry.is_leaving:
            raise UnknownAdapter(f"no adapter with version {version[:12]} is registered; load it first")
        return entry

    def _check_last_copies(self, spec: AdapterSpec) -> None:
        num_bytes = sum(entry.spec.num_bytes for entry in self._entries.values() if not entry.has_store)
        if num_bytes + spec.num_bytes > self._host_bytes:
            raise UnsupportedAdapter(
                f"an adapter without a store needs {spec.num_bytes} bytes of host memory for good; "
                f"{num_bytes} of {self._host_bytes} are taken that way; raise host_adapter_bytes or unload one"
            )

    def _advance(self, entry: _Entry) -> None:
        """Take the next steps towards the device that are possible now."""
        if not entry.pages:
            entry.pages = self._pool.take(entry.spec.num_pages)
            self._placed[entry.spec.version] = entry
            self._touch(entry)
        if entry.is_ready or entry.spec.version in self._fetching:
            return
        if not entry.in_host:
            self._fetching.add(entry.spec.version)
            self._fetches.append(Fetch(version=entry.spec.version))
            return
        end = min(entry.spec.num_pages, entry.num_written + self._page_writes_per_step - len(self._writes))
        for index in range(entry.num_written, end):
            self._writes.append(PageWrite(version=entry.spec.version, index=index, page=entry.pages[index]))
        entry.num_written = end
        self.num_loads += entry.is_ready

    def _evict(self, entry: _Entry) -> None:
        """Take an adapter's device pages, whether written or only reserved."""
        if self._victims.pop(entry.spec.version, None) is not None:
            self._num_victim_pages -= len(entry.pages)
        self._placed.pop(entry.spec.version, None)
        self._pool.give_back(entry.pages)
        entry.pages, entry.num_written = (), 0

    def _touch(self, entry: _Entry) -> None:
        """Make it the most recently used."""
        for table in (self._entries, self._placed):
            if table.pop(entry.spec.version, None) is not None:
                table[entry.spec.version] = entry

    def _trim_host(self) -> None:
        """Drop least recently used host copies until the rest fits, but no last copy and none that is being written."""
        excess = sum(entry.spec.num_bytes for entry in self._entries.values() if entry.in_host) - self._host_bytes
        for version, entry in self._entries.items():
            if excess <= 0:
                return
            if entry.in_host and entry.has_store and (entry.is_ready or not entry.pages):
                entry.in_host = False
                self._releases[version] = None
                excess -= entry.spec.num_bytes

    def _forget(self, entry: _Entry) -> None:
        self._evict(entry)
        del self._entries[entry.spec.version]
        if entry.in_host:
            self._releases[entry.spec.version] = None
