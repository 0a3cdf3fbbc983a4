"""From shares to copies. Owns: which copies are missing, in what order, and which may go. Pure: gives no orders.

Requests follow the shares at once, copies follow as bytes allow, and what is no longer wanted goes last. A share of 0
is a copy without traffic: a spare.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cluster.view import Adapter, HostName, HostView, Share, Shares
from lorajax.spec import Version

_WHOLE = 1e-9
"""How far a sum of shares may be from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One adapter that a host is to bring into its memory."""

    host: HostName
    adapter: Adapter
    is_due: bool
    """Whether too few copies exist without it; otherwise it only spares the first request a wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the moves of one round follow from."""

    adapters: Mapping[Version, Adapter]
    shares: Shares
    hosts: Sequence[HostView]
    """The serving ones."""
    holders: Mapping[Version, Collection[HostName]]
    """Serving hosts with a copy in memory."""
    coming: Mapping[Version, Collection[HostName]]
    """Serving hosts that were told to fetch it."""
    heat: Mapping[Version, float]
    """Host-seconds per second that its demand takes: how hot an adapter is."""
    budget_bytes: int

    def num_due(self, version: Version) -> int:
        """Copies that must exist, whatever they cost."""
        return max(1, self.adapters[version].min_copies)

    def num_kept(self, version: Version) -> int:
        """Copies that are not dropped: two of what is hot enough for the policy to give it two hosts."""
        return max(self.num_due(version), min(2, len(self.shares.get(version, ()))))


class _Room:
    """Free memory of hosts as copies are given to them; the emptiest first. Adds up nothing before it is asked."""

    def __init__(self, hosts: Sequence[HostView], adapters: Mapping[Version, Adapter]) -> None:
        self._hosts = hosts
        self._adapters = adapters
        self._num_bytes = {view.spec.name: max(1, view.spec.host_bytes) for view in hosts}

    @cached_property
    def _used(self) -> dict[HostName, int]:
        known = self._adapters
        return {
            view.spec.name: sum(known[version].num_bytes for version in view.copies if version in known)
            for view in self._hosts
        }

    @cached_property
    def _emptiest(self) -> list[tuple[float, HostName]]:
        return sorted((self._fullness(name), name) for name in self._used)

    def _fullness(self, host: HostName) -> float:
        return self._used[host] / self._num_bytes[host]

    def fits(self, host: HostName, num_bytes: int) -> bool:
        return self._used[host] + num_bytes <= self._num_bytes[host]

    def fill(self, host: HostName, num_bytes: int) -> None:
        self._used[host] += num_bytes
        heapq.heappush(self._emptiest, (self._fullness(host), host))

    def emptiest(self, exclude: Collection[HostName]) -> HostName | None:
        """The host with the largest free part of its memory."""
        passed: list[tuple[float, HostName]] = []
        found = None
        while self._emptiest and found is None:
            fullness, host = heapq.heappop(self._emptiest)
            if fullness != self._fullness(host):
                continue  # it has been filled since: its newer entry counts
            passed.append((fullness, host))
            if host not in exclude:
                found = host
        for entry in passed:
            heapq.heappush(self._emptiest, entry)
        return found


def repaired(
    shares: Shares, adapters: Mapping[Version, Adapter], hosts: Sequence[HostView]
) -> dict[Version, tuple[Share, ...]]:
    """Shares of every adapter over these hosts alone, in the proportions of before; none where there is no host.

    An adapter that is left without any goes to the hosts that hold it in equal parts, else to the emptiest host.
    """
    names = {view.spec.name for view in hosts}
    found = {version: _normalised(shares.get(version, ()), names) for version in adapters}
    homeless = [version for version, kept in found.items() if not kept]
    return found | _housed(homeless, adapters, hosts) if hosts else {}


def _normalised(shares: Sequence[Share], hosts: Collection[HostName]) -> tuple[Share, ...]:
    kept = tuple(share for share in shares if share.host in hosts)
    total = sum(share.share for share in kept)
    if abs(total - 1) <= _WHOLE:
        return kept
    if total <= 0:  # only spares are left
        return _equal([share.host for share in kept])
    return tuple(Share(share.host, share.share / total) for share in kept)


def _equal(hosts: Sequence[HostName]) -> tuple[Share, ...]:
    return tuple(Share(host, 1 / len(hosts)) for host in hosts)


def _housed(
    homeless: Sequence[Version], adapters: Mapping[Version, Adapter], hosts: Sequence[HostView]
) -> dict[Version, tuple[Share, ...]]:
    room = _Room(hosts, adapters)
    found: dict[Version, tuple[Share, ...]] = {}
    for version in homeless:
        names = [view.spec.name for view in hosts if view.holds(version)]
        if not names and (host := room.emptiest(())) is not None:
            room.fill(host, adapters[version].num_bytes)
            names = [host]
        found[version] = _equal(names)
    return found


def copies(plan: Plan) -> tuple[Copy, ...]:
    """The copies to make, in order: those that must exist, then those that shares want, the hottest first.

    The latter only as far as the byte budget and the hosts' memory go: the rest comes with its first request.
    """
    room = _Room(plan.hosts, plan.adapters)
    due: list[Copy] = []
    wanted: list[Copy] = []
    for version in sorted(plan.adapters, key=lambda one: (-plan.heat.get(one, 0.0), one)):
        adapter = plan.adapters[version]
        here = [*plan.holders.get(version, ()), *plan.coming.get(version, ())]
        for host in _targets(plan, version, here, room):
            is_due = len(here) < plan.num_due(version)
            here.append(host)
            (due if is_due else wanted).append(Copy(host=host, adapter=adapter, is_due=is_due))
            if is_due:
                room.fill(host, adapter.num_bytes)
    return (*due, *_affordable(wanted, plan.budget_bytes, room))


def _targets(plan: Plan, version: Version, here: Sequence[HostName], room: _Room) -> list[HostName]:
    """Hosts that lack the adapter: those with a share, the largest first, then as many as must hold it besides."""
    shares = sorted(plan.shares.get(version, ()), key=lambda share: (-share.share, share.host))
    targets = [share.host for share in shares if share.host not in here]
    for _ in range(plan.num_due(version) - len(here) - len(targets)):
        if (host := room.emptiest((*here, *targets))) is None:
            break
        targets.append(host)
    return targets


def _affordable(wanted: Iterable[Copy], budget_bytes: int, room: _Room) -> Iterable[Copy]:
    for copy in wanted:
        num_bytes = copy.adapter.num_bytes
        if num_bytes <= budget_bytes and room.fits(copy.host, num_bytes):
            budget_bytes -= num_bytes
            room.fill(copy.host, num_bytes)
            yield copy


def drops(plan: Plan, idle: Iterable[tuple[HostName, Version]]) -> tuple[tuple[HostName, Version], ...]:
    """Those of the copies without share that can go: enough stay in the memory of serving hosts, counting each drop."""
    num_left: dict[Version, int] = {}
    gone: list[tuple[HostName, Version]] = []
    for host, version in idle:
        left = num_left.setdefault(version, len(plan.holders.get(version, ())))
        if left > plan.num_kept(version):
            num_left[version] = left - 1
            gone.append((host, version))
    return tuple(gone)
