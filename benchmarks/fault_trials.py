"""What clients of a cluster see while something is done to it. Owns: the load, the clocks, the numbers and their table.

Does not: do anything to it. Nothing is asked twice by this side: a request that fails is counted as failed.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import machine
from benchmarks.fault_load import Load, Outcome
from cluster import serving_pb2, serving_pb2_grpc

_BEFORE_S, _AFTER_S = 3.0, 2.0
"""Of load that nothing disturbs."""
_LOOK_S = 0.02
_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of one round."""

    case: str
    what: str
    value: float
    unit: str = "s"
    goal: float | None = None
    """At most; None where the number is only reported."""


type Rows = list[Row]


class Trials:
    """A cluster by its gateway, and what was measured so far."""

    def __init__(self, channel: grpc.aio.Channel, adapters: list[str], num_hosts: int) -> None:
        """Ask by these adapters; it is whole with so many hosts."""
        self._load = Load(channel, adapters)
        self._adapters = frozenset(adapters)
        self._num_hosts = num_hosts
        self.adapters = serving_pb2_grpc.AdaptersStub(channel)
        self.cluster = serving_pb2_grpc.ClusterStub(channel)
        self.rows: Rows = []

    @contextlib.asynccontextmanager
    async def load(self, name: str, *, may_fail: bool = False) -> AsyncIterator["Case"]:
        """Requests before, while and after the block runs; those that fail are rows, and goals unless they may."""
        async with self._load.running() as outcomes:
            case = Case(name, self, outcomes)
            await asyncio.sleep(_BEFORE_S)
            await until(lambda: _now(case.homes().keys() >= self._adapters))
            yield case
            await asyncio.sleep(_AFTER_S)
        case.count(may_fail=may_fail)

    async def states(self) -> dict[str, str]:
        """What each host is said to be; nothing while nobody answers."""
        try:
            reply = await self.cluster.Status(serving_pb2.StatusRequest())
        except grpc.aio.AioRpcError:
            return {}
        return {host.name: host.state for host in reply.hosts}

    async def registered(self) -> set[tuple[str, str]]:
        """(name, version) of every adapter."""
        reply = await self.adapters.List(serving_pb2.ListAdaptersRequest())
        return {(info.name, info.version) for info in reply.adapters}

    async def can_place(self) -> bool:
        """Whether the coordinator answers, and has hosts."""
        try:
            await self.cluster.Rebalance(serving_pb2.RebalanceRequest())
        except grpc.aio.AioRpcError:
            return False
        return True

    async def until_whole(self) -> None:
        """Wait until every host serves."""

        async def holds() -> bool:
            states = await self.states()
            return len(states) == self._num_hosts and set(states.values()) == {"serving"}

        await until(holds)


class Case:
    """One thing that is done under load."""

    def __init__(self, name: str, trials: Trials, outcomes: list[Outcome]) -> None:
        """Watch the outcomes grow."""
        self._name = name
        self._trials = trials
        self._outcomes = outcomes
        self.victim = ""
        """The host that was struck, if any."""
        self._began_s = time.monotonic()

    def begin(self) -> None:
        """Start the clock of `took`."""
        self._began_s = time.monotonic()

    def took(self, what: str, goal: float | None = None) -> None:
        """Note the seconds since `begin`."""
        self.add(what, time.monotonic() - self._began_s, goal)

    def add(self, what: str, value: float, goal: float | None = None, unit: str = "s") -> None:
        """Note a number."""
        self._trials.rows.append(Row(case=self._name, what=what, value=value, unit=unit, goal=goal))

    def homes(self) -> Mapping[str, str]:
        """The host that answered last, for each adapter."""
        return {one.adapter: one.host for one in self._outcomes if one.host}

    def busy_host(self) -> str:
        """A host that answers to some adapter."""
        hosts = sorted(self.homes().values())
        return hosts[len(hosts) // 2]

    async def until_answers(self, host: str) -> None:
        """Wait until the host answers to some adapter."""
        await until(lambda: _now(host in self.homes().values()))

    async def strike(self, host: str, blow: Callable[[], object]) -> None:
        """Do it to a host that answers, and note when that is seen and when others answer in its place."""
        self.victim = host
        orphans = {adapter for adapter, home in self.homes().items() if home == host}
        self.begin()
        blow()

        async def is_seen() -> bool:
            return (await self._trials.states()).get(host, "serving") != "serving"

        async def are_answered() -> bool:
            since = (one for one in self._outcomes if one.started_s > self._began_s and one.host not in ("", host))
            return orphans <= {one.adapter for one in since}

        async def noted(holds: Callable[[], Awaitable[bool]], what: str, goal: float) -> None:
            await until(holds)
            self.took(what, goal)

        await asyncio.gather(noted(is_seen, "seen", 3.0), noted(are_answered, "its adapters answered elsewhere", 10.0))

    async def until_mended(self, host: str) -> None:
        """Wait until the host serves and answers again."""
        await self._trials.until_whole()
        self.took("serving again")
        since_s = time.monotonic()
        await until(lambda: _now(any(one.host == host and one.started_s > since_s for one in self._outcomes)))
        self.took("used again")

    async def is_refused(self) -> bool:
        """Whether a request has failed since `begin`."""
        return any(one.code != "OK" and one.ended_s > self._began_s for one in self._outcomes)

    async def is_answered(self) -> bool:
        """Whether the last request to end was answered."""
        return self._outcomes[-1].code == "OK"

    def count(self, *, may_fail: bool) -> None:
        """Note how many requests failed; streams that a struck host had begun cannot but end."""
        words = f"host {self.victim} was lost after"
        cut = [one for one in self._outcomes if self.victim and one.code == "ABORTED" and words in one.words]
        failed = [one for one in self._outcomes if one.code != "OK" and one not in cut]
        if self.victim:
            self.add("its streams cut", len(cut), unit="requests")
        self.add("failed requests", len(failed), None if may_fail else 0, "requests")
        self.add("answered requests", len(self._outcomes) - len(failed) - len(cut), unit="requests")
        self.add("slowest answer", max(one.ended_s - one.started_s for one in self._outcomes if one.code == "OK"))
        for one in () if may_fail else failed:
            print(f"{self._name}: {one.adapter} {one.code} {one.words}")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again until it holds."""
    async with asyncio.timeout(_TIMEOUT_S):
        while not await holds():
            await asyncio.sleep(_LOOK_S)


async def _now(value: bool) -> bool:
    return value


def report(rows: Rows, facts: Mapping[str, object], path: Path) -> None:
    """Print the table and write the JSON."""
    table = _table(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(machine.facts({}) | dict(facts) | {"rows": table}, indent=1) + "\n")
    print("\n".join(_lines(table)), path, sep="\n")


def _table(rows: Rows) -> list[dict[str, Any]]:
    """The rounds of each number beside each other; a goal is met where the worst of them meets it."""
    table: list[dict[str, Any]] = []
    order = {key: number for number, key in reversed(list(enumerate((row.case, row.what) for row in rows)))}
    in_order = sorted(rows, key=lambda row: order[row.case, row.what])
    for _, group in itertools.groupby(in_order, key=lambda row: (row.case, row.what)):
        same = list(group)
        values, goal = [row.value for row in same], same[0].goal
        spread = {"value": float(np.median(values)), "low": min(values), "high": max(values), "num": len(values)}
        table.append(asdict(same[0]) | spread | {"is_met": None if goal is None else max(values) <= goal})
    return table


def _lines(table: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    yield f"{'case':<20}{'what':<34}{'median':>9}{'worst':>9}  {'goal':<7}met"
    for row in table:
        goal = "" if row["goal"] is None else f"<= {row['goal']:g}"
        met = {None: "", True: "yes", False: "NO"}[row["is_met"]]
        yield f"{row['case']:<20}{row['what']:<34}{row['value']:>9.2f}{row['high']:>9.2f}  {goal:<7}{met}"
