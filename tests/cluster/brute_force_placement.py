"""Placements found slowly: every one on a grid, and the bound of an integer program. Also the inputs to compare on."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from cluster.operating_points import OperatingPoints
from cluster.placement import PlacementInput
from cluster.view import Adapter, Forecast, HostName, HostSpec, HostState, HostView, Shares
from lorajax.spec import Level, Version, num_rank_pages

PAGE_BYTES = 1000
AMPLE = 10**9
RATES = {0: 1000.0, 128: 200.0}


def version(number: int) -> Version:
    return Version(f"{number:064x}")


def adapter(number: int, rank: int, min_copies: int = 1) -> Adapter:
    num_bytes = num_rank_pages(rank) * PAGE_BYTES
    return Adapter(version=version(number), rank=rank, num_bytes=num_bytes, path="store", min_copies=min_copies)


def host(number: int, *, speed: float = 1.0, host_bytes: int = AMPLE, holds: Sequence[int] = ()) -> HostView:
    spec = HostSpec(
        name=HostName(f"host-{number:03}"),
        address="127.0.0.1:1",
        incarnation=1,
        host_bytes=host_bytes,
        num_adapter_pages=64,
        max_sequences=8,
        speed=speed,
    )
    return HostView(spec=spec, state=HostState.SERVING, copies={version(number): Level.HOST for number in holds})


def asked(
    adapters: Sequence[Adapter],
    demand: Sequence[float],
    hosts: Sequence[HostView],
    *,
    mixing: float = 0.0,
    previous: Shares | None = None,
    budget_bytes: int = AMPLE,
) -> PlacementInput:
    return PlacementInput(
        adapters={one.version: one for one in adapters},
        demand={one.version: Forecast(mean=high, high=high) for one, high in zip(adapters, demand, strict=True)},
        points=OperatingPoints(tokens_per_s=RATES, mixing=mixing, fetch_bytes_per_s=1e9),
        hosts=tuple(hosts),
        previous=previous or {},
        budget_bytes=budget_bytes,
    )


def loads(given: PlacementInput, shares: Shares) -> Mapping[HostName, float]:
    """Utilisation of each host, by the definition."""
    result = {}
    for view in given.hosts:
        parts = [
            (given.adapters[name].rank, given.demand[name].high * part.share)
            for name, found in shares.items()
            for part in found
            if part.host == view.spec.name and given.demand[name].high * part.share > 0
        ]
        top = given.points.cost_s(max((rank for rank, _ in parts), default=0))
        mixing = given.points.mixing
        result[view.spec.name] = (
            sum(tokens * ((1 - mixing) * given.points.cost_s(rank) + mixing * top) for rank, tokens in parts)
            / view.spec.speed
        )
    return result


def peak(given: PlacementInput, shares: Shares) -> float:
    return max(loads(given, shares).values())


def grid_peak(given: PlacementInput, parts: int) -> float:
    """The lowest peak of all placements whose shares are multiples of 1 / parts and whose copies fit."""
    num_hosts = len(given.hosts)
    splits = np.array([s for s in itertools.product(range(parts + 1), repeat=num_hosts) if sum(s) == parts]) / parts
    work = np.zeros((1, num_hosts))
    tokens, num_bytes, top = work, work, np.zeros((1, num_hosts), int)
    for name, one in given.adapters.items():
        high = given.demand[name].high
        used = splits > 0

        def crossed(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return (old[:, None] + new[None]).reshape(-1, num_hosts)

        work = crossed(work, high * given.points.cost_s(one.rank) * splits)
        tokens = crossed(tokens, high * splits)
        num_bytes = crossed(num_bytes, one.num_bytes * used)
        top = np.maximum(top[:, None], (one.rank * used)[None]).reshape(-1, num_hosts)
    cost = np.array([given.points.cost_s(rank) for rank in range(257)])
    mixing = given.points.mixing
    speed = np.array([view.spec.speed for view in given.hosts])
    utilisation = ((1 - mixing) * work + mixing * cost[top] * tokens) / speed
    fits = (num_bytes <= [view.spec.host_bytes for view in given.hosts]).all(axis=1)
    return float(utilisation.max(axis=1)[fits].min())


def milp_bound(given: PlacementInput, limit_s: float) -> float:
    """A peak that no placement can be below: an integer program over shares, copies and the largest rank of each host.

    Variables: share[a, h, k] of adapter a on host h while h's largest rank is k, copy[a, h], is_top[h, k], the peak.
    """
    program = _Program(given)
    result = milp(
        program.goal(),
        constraints=program.constraints(),
        bounds=Bounds(0, program.upper()),
        integrality=program.integrality(),
        options={"time_limit": limit_s, "mip_rel_gap": 0.002},
    )
    return float(result.mip_dual_bound)


class _Program:
    def __init__(self, given: PlacementInput) -> None:
        self.given = given
        self.adapters = list(given.adapters.values())
        self.ranks = sorted({one.rank for one in self.adapters}) if given.points.mixing else [256]
        self.shape = (len(self.adapters), len(given.hosts), len(self.ranks))
        a, h, k = self.shape
        self.share = np.arange(a * h * k).reshape(self.shape)
        self.copy = a * h * k + np.arange(a * h).reshape(a, h)
        self.is_top = a * h * k + a * h + np.arange(h * k).reshape(h, k)
        self.size = a * h * k + a * h + h * k + 1

    def goal(self) -> np.ndarray:
        return np.eye(1, self.size, self.size - 1)[0]

    def integrality(self) -> np.ndarray:
        return np.r_[np.zeros(self.share.size), np.ones(self.size - 1 - self.share.size), 0]

    def upper(self) -> np.ndarray:
        """1, the peak anything, and 0 for a share on a host whose largest rank is smaller."""
        upper = np.ones(self.size)
        upper[-1] = np.inf
        for i, one in enumerate(self.adapters):
            for k, rank in enumerate(self.ranks):
                upper[self.share[i, :, k]] = one.rank <= rank
        return upper

    def cost(self, one: Adapter, rank: int) -> float:
        points = self.given.points
        own = points.cost_s(one.rank)
        return self.given.demand[one.version].high * (own + points.mixing * (points.cost_s(rank) - own))

    def constraints(self) -> list[LinearConstraint]:
        a, h, k = self.shape
        rows: list[tuple[dict[int, float], float, float]] = []
        for i in range(a):
            rows.append(({int(x): 1.0 for x in self.share[i].flat}, 1, 1))
            rows.append(({int(y): 1.0 for y in self.copy[i]}, self.adapters[i].min_copies, h))
            for j in range(h):
                rows.append(({int(x): 1.0 for x in self.share[i, j]} | {int(self.copy[i, j]): -1.0}, -1, 0))
                for c in range(k):
                    rows.append(({int(self.share[i, j, c]): 1.0, int(self.is_top[j, c]): -1.0}, -1, 0))
        for j, view in enumerate(self.given.hosts):
            rows.append(({int(z): 1.0 for z in self.is_top[j]}, 1, 1))
            rows.append(
                ({int(self.copy[i, j]): one.num_bytes for i, one in enumerate(self.adapters)}, 0, view.spec.host_bytes)
            )
            load = {
                int(self.share[i, j, c]): self.cost(one, rank)
                for i, one in enumerate(self.adapters)
                for c, rank in enumerate(self.ranks)
            }
            rows.append((load | {self.size - 1: -view.spec.speed}, -np.inf, 0))
        entries = [(r, c, v) for r, (row, _, _) in enumerate(rows) for c, v in row.items()]
        r, c, v = zip(*entries, strict=True)
        matrix = coo_array((v, (r, c)), shape=(len(rows), self.size)).tocsr()
        return [LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows])]
