"""Workloads by name. Owns: LoRAServe's settings and ours. Does not: draw, read files.

LoRAServe (arXiv 2511.22880) publishes no trace. What is known of its settings is kept: 25 adapters, five of each rank,
{uniform, Poisson} arrivals x {uniform, shifting-skew, exponential} popularity of ranks; 8 h of 250 138 requests for
five types of adapter, names inside a type by a power law. What is not known is ours: exponential halves from rank to
rank, the small ones first; the skew goes from the smallest rank to the largest and back; lengths are like Azure's of
2023; `restless` arrivals and popularity wander as their own modules say.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict, Unpack

from benchmarks.workloads.arrivals import ARRIVALS
from benchmarks.workloads.lengths import FITS
from benchmarks.workloads.popularity import POPULARITY
from benchmarks.workloads.ranks import parsed
from benchmarks.workloads.records import Workload
from benchmarks.workloads.setting import Crowd, Part, Setting, chosen


class Changes(TypedDict, total=False):
    """What of a setting may be other than its own; strings are names of the parts."""

    adapters: int
    arrivals: str
    popularity: str
    ranks: str
    lengths: str
    crowds: tuple[Crowd, ...]


def numbered(count: int) -> tuple[str, ...]:
    """So many names of adapters, that sort as they are numbered."""
    return tuple(f"adapter-{number:0{max(4, len(str(count - 1)))}}" for number in range(count))


def changed(setting: Setting, **changes: Unpack[Changes]) -> Setting:
    """The setting with other parts; ValueError that starts with the part's kind if one is not known."""
    if "adapters" in changes:
        setting = replace(setting, adapters=numbered(changes["adapters"]))
    if "arrivals" in changes:
        setting = replace(setting, arrivals=chosen("arrivals", changes["arrivals"], ARRIVALS))
    if "popularity" in changes:
        setting = replace(setting, popularity=chosen("popularity", changes["popularity"], POPULARITY))
    if "ranks" in changes:
        setting = replace(setting, ranks=Part(changes["ranks"], parsed(changes["ranks"])))
    if "lengths" in changes:
        setting = replace(setting, lengths=chosen("lengths", changes["lengths"], FITS))
    return replace(setting, crowds=changes.get("crowds", setting.crowds))


def _setting(name: str, arrivals: str, popularity: str, ranks: str, adapters: int) -> Setting:
    return Setting(
        name=name,
        arrivals=chosen("arrivals", arrivals, ARRIVALS),
        popularity=chosen("popularity", popularity, POPULARITY),
        ranks=Part(ranks, parsed(ranks)),
        lengths=chosen("lengths", "conv", FITS),
        adapters=numbered(adapters),
    )


LORASERVE_PUBLIC = tuple(
    _setting(f"loraserve-{arrivals}-{popularity}", arrivals, f"ranks-{popularity}", "families", 25)
    for arrivals in ("uniform", "poisson")
    for popularity in ("uniform", "shifting", "exponential")
)
LORASERVE_PRODUCTION = tuple(
    replace(
        _setting(f"production-{count}", "restless", "restless", "families", count),
        rate=250_138 / 28_800,
        duration_s=28_800.0,
    )
    for count in (50, 100, 200)
)
NAMED: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        *LORASERVE_PUBLIC,
        *LORASERVE_PRODUCTION,
        _setting("zipf", "poisson", "zipf", "mixed", 100),
        _setting("shifting", "poisson", "shifting", "mixed", 100),
        _setting("bursts", "gamma", "zipf", "mixed", 100),
        _setting("day", "diurnal", "shifting", "mixed", 100),
        replace(_setting("cold-crowd", "poisson", "zipf", "mixed", 100), crowds=(Crowd(),)),
    )
}
"""Each is called with `rate`, `duration_s` and `seed`. With `crowds=()` `cold-crowd` has the very same requests but for
those of its crowd."""


def named(
    name: str, *, rate: float = 0.0, duration_s: float = 0.0, seed: int = 0, **changes: Unpack[Changes]
) -> Workload:
    """The workload of this name; rate (requests/s) and duration are the setting's own where 0.

    Cost: about 3 s for 500 000 requests. Raises: ValueError if there is no such name, or no such part.
    """
    setting = chosen("workload", name, NAMED).make
    return changed(setting, **changes)(rate=rate, duration_s=duration_s, seed=seed)
