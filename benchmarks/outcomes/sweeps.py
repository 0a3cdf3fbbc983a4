"""What a sweep found. Owns: its records, and their JSON both ways. Does not: simulate, judge or draw.

As in files.py, null stands in JSON for a time or a number of hosts that is infinite.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

type Json = Any
"""What json.loads returns."""

KIND = "sweep"
"""Says in the file what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One system under one setting; its load is what a sweep varies."""

    setting: str
    system: str
    kernels: str
    seed: int
    slo_s: float
    """That 95 % of requests are to have their first token within."""
    hosts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A case at one load."""

    case: Case
    rate: float
    """Requests/s that came."""
    throughput: float
    """Requests/s that were answered."""
    tail_ttft_s: float
    """95th percentile over all requests, failed ones infinitely late."""
    median_ttft_s: float
    mean_tpot_s: float
    attainment: float
    held_bytes: float
    """Of adapters, by all hosts together, in the mean over time."""
    replicated_bytes: float
    """Were every adapter on every host."""
    moved_bytes: float
    imbalance: float
    """Seconds in steps of the busiest host over those of the mean one."""
    device_share: float
    """Of requests that found their adapters on the device."""
    tail_by_rank: Mapping[int, float]
    cdf_by_rank: Mapping[int, tuple[float, ...]]
    """As in the summary of a run; empty where it was left out to save room."""

    @property
    def is_within(self) -> bool:
        """Whether it kept the SLO."""
        return self.tail_ttft_s <= self.case.slo_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The highest load of a case that is within the SLO; the next one that was tried is not."""

    case: Case
    rate: float
    """0 where none was."""
    held_share: float
    """Of the bytes of full replication, at that load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The fewest hosts that keep a load within the SLO."""

    case: Case
    """Its `hosts` are the most that were tried."""
    rate: float
    hosts: float
    """Infinite where the most were not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The same load calm and disturbed: what becomes of those that are not to blame."""

    case: Case
    rate: float
    disturbance: str
    calm_s: float
    """95th percentile of the TTFT of requests that the disturbance did not add."""
    disturbed_s: float
    goal: float | None = None
    """The most that disturbed over calm may be; None where it is only reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What systems can surpass on a setting at most: requests/s."""

    setting: str
    kernels: str
    seed: int
    slo_s: float
    hosts: int
    rate: float
    """No placement and no routing surpasses it, were all hosts one without queues."""
    unburdened_rate: float = math.nan
    """The best of some routings bears it, were all adapters on all hosts at no cost; NaN where it was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Everything of one sweep."""

    facts: Mapping[str, object]
    points: tuple[Point, ...] = ()
    limits: tuple[Limit, ...] = ()
    needs: tuple[Need, ...] = ()
    trials: tuple[Trial, ...] = ()
    bounds: tuple[Bound, ...] = ()


def write(sweep: Sweep, path: Path) -> None:
    """Put a sweep into a JSON file, a line for each record."""
    lists = ("points", "limits", "needs", "trials", "bounds")
    parts = [f' "{name}": [\n{",\n".join(map(_line, getattr(sweep, name)))}\n ]' for name in lists]  # its own fields
    facts = json.dumps(_finite(dict(sweep.facts)), indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n "kind": "{KIND}",\n "facts": {facts},\n{",\n".join(parts)}\n}}\n', encoding="utf-8")


def read(path: Path) -> Sweep:
    """What `write` wrote. Raises: ValueError naming the file where it holds something else; OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["kind"] != KIND:
            raise ValueError(f"kind is {found['kind']!r}")
        return Sweep(
            facts=found["facts"],
            points=tuple(map(_point, found["points"])),
            limits=tuple(Limit(**one | {"case": Case(**one["case"])}) for one in found["limits"]),
            needs=tuple(Need(**_with(one, "hosts")) for one in found["needs"]),
            trials=tuple(Trial(**_with(one, "calm_s", "disturbed_s")) for one in found["trials"]),
            bounds=tuple(map(_bound, found["bounds"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no sweep ({error}); write it with `python -m benchmarks sweep`") from error


def point_json(point: Point) -> str:
    """One point as a line of JSON."""
    return _line(point)


def point_of(text: str) -> Point:
    """What `point_json` wrote."""
    return _point(json.loads(text))


def without_cdf(point: Point) -> Point:
    """The same, smaller."""
    return replace(point, cdf_by_rank={})


def _point(found: Json) -> Point:
    times = _with(found, "tail_ttft_s", "median_ttft_s", "mean_tpot_s")
    return Point(
        **times
        | {
            "imbalance": math.nan if found["imbalance"] is None else found["imbalance"],
            "device_share": math.nan if found["device_share"] is None else found["device_share"],
            "tail_by_rank": {int(rank): _infinite(tail_s) for rank, tail_s in found["tail_by_rank"].items()},
            "cdf_by_rank": {int(rank): tuple(map(_infinite, cdf)) for rank, cdf in found["cdf_by_rank"].items()},
        }
    )


def _bound(found: Json) -> Bound:
    rate = found.get("unburdened_rate")
    return Bound(**found | {"unburdened_rate": math.nan if rate is None else rate})


def _with(found: Json, *names: str) -> Json:
    """The fields of a record with a case, infinite again where null stands for it."""
    return found | {"case": Case(**found["case"])} | {name: _infinite(found[name]) for name in names}


def _infinite(found: float | None) -> float:
    return math.inf if found is None else found


def _line(record: Json) -> str:
    return "  " + json.dumps(_finite(asdict(record)), allow_nan=False)


def _finite(found: Json) -> Json:
    """The same with null for what is no number in JSON, and as many digits as anybody reads."""
    if isinstance(found, float):
        return float(f"{found:.6g}") if math.isfinite(found) else None
    if isinstance(found, Mapping):
        return {str(key): _finite(value) for key, value in found.items()}
    return [_finite(value) for value in found] if isinstance(found, (list, tuple)) else found
