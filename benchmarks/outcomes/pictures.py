"""Pictures of results. Owns: how each is drawn. Does not: compute, or know where numbers come from.

Every picture can be read in grey: systems differ by marker, dash and hatch, not by colour alone. Needs matplotlib
(`pip install 'lorajax[bench]'`): import this module on use. No pyplot, so nothing is kept between pictures.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

type Curve = Sequence[tuple[float, float]]
"""(x, y) in order of x."""
type Bars = Mapping[str, Mapping[str, Sequence[float]]]
"""Series -> group -> values, one for each seed."""

_SIZE = (7.2, 4.2)
_DOTS_PER_INCH = 144
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f", "#e69f00", "#56b4e9", "#5b3a8c")
"""Those of Okabe and Ito, who chose them to differ for most eyes; black first: it is for ours."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (2, 2)))
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "---", "ooo", "+++", "**")
_PLAIN = FuncFormatter(lambda value, _place: f"{value:g}")
_MOST_PANELS, _MOST_ADAPTERS = 6, 60


def load_against_ttft(curves: Mapping[str, Curve], slo_s: float) -> Figure:
    """Requests/s that come against the 95th percentile of TTFT in seconds, one line for each system."""
    figure, axes = _axes("load (requests/s)", "95th percentile of TTFT (s)")
    for number, (name, curve) in enumerate(curves.items()):
        finite = [point for point in curve if math.isfinite(point[1])]
        axes.plot(*_columns(finite), label=name, **_line(number))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_PLAIN)
    _limit(axes, slo_s, f"SLO {slo_s:g} s")
    _legend(figure, axes)
    return figure


def loads(bars: Bars, slo_s: float) -> Figure:
    """The most requests/s within the SLO: groups are settings, series are systems, whiskers go over seeds."""
    return _barred(bars, f"most requests/s with P95 TTFT ≤ {slo_s:g} s")


def hosts_needed(bars: Bars, slo_s: float) -> Figure:
    """The fewest hosts within the SLO: groups are loads, series are systems; no bar where none of the tried suffice."""
    figure = _barred(bars, f"hosts needed for P95 TTFT ≤ {slo_s:g} s")
    figure.axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set_xlabel("load")
    return figure


def ttft_by_rank(cdf_by_rank: Mapping[int, Sequence[float]], slo_s: float) -> Figure:
    """Share of a rank's requests whose first token came within so many seconds; quantiles at equal steps of share."""
    figure, axes = _axes("TTFT (s)", "share of requests")
    for number, (rank, quantiles_s) in enumerate(cdf_by_rank.items()):
        shares = np.linspace(0, 1, len(quantiles_s))
        finite = [point for point in zip(quantiles_s, shares, strict=True) if math.isfinite(point[0])]
        axes.plot(*_columns(finite), label=f"rank {rank}" if rank else "base", markevery=0.1, **_line(number))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.set_ylim(0, 1)
    if math.isfinite(slo_s):
        axes.axvline(slo_s, color="black", linewidth=0.8, linestyle=":")
        axes.annotate(f" SLO {slo_s:g} s", (slo_s, 0.02), fontsize="small")
    axes.axhline(0.95, color="black", linewidth=0.5, linestyle=":")
    _legend(figure, axes)
    return figure


def ablation(bars: Bars, reference: str) -> Figure:
    """Loads as multiples of one: groups are kernels, series are systems."""
    figure = _barred(bars, f"most load within the SLO\n(multiples of {reference})")
    figure.axes[0].axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    return figure


def placements(
    rounds: Sequence[tuple[float, Mapping[str, Mapping[str, float]]]], ranks: Mapping[str, int], hosts: Sequence[str]
) -> Figure:
    """Which share of the requests of the adapters in `ranks` each host takes, at a few moments; rows go up in rank."""
    chosen = [rounds[place] for place in _spread(len(rounds), _MOST_PANELS)]
    named = sorted(ranks, key=lambda name: (ranks[name], name))
    adapters = [named[place] for place in _spread(len(named), _MOST_ADAPTERS)]
    height = min(9.0, 1.6 + 0.11 * len(adapters))
    figure = Figure(figsize=(_SIZE[0] + 1.2, height), layout="constrained")
    for number, (at_s, shares) in enumerate(chosen):
        axes = figure.add_subplot(1, len(chosen), number + 1)
        cells = [[shares.get(name, {}).get(host, 0.0) for host in hosts] for name in adapters]
        image = axes.imshow(cells, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="lower")
        axes.set_title(f"{at_s:.0f} s", fontsize="small")
        axes.set_xticks(*_few(hosts), fontsize="x-small", rotation=90)
        axes.set_yticks([])
        _rank_rows(axes, [ranks[name] for name in adapters], is_first=number == 0)
    figure.supxlabel("host, at some moments of the run", fontsize="small")
    figure.axes[0].set_ylabel("adapters by rank", fontsize="small")
    figure.colorbar(image, ax=figure.axes, label="share of the adapter's requests", fraction=0.04)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None})


def svg(figure: Figure) -> str:
    """The picture as an element of an HTML page; the same picture gives the same text."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "lorajax", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()[text.getvalue().index("<svg") :]


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _line(number: int) -> dict[str, Any]:  # keywords of several types
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "linewidth": 2.0 if number == 0 else 1.2,
        "markersize": 5,
    }


def _legend(figure: Figure, axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")


def _limit(axes: Axes, value: float, words: str) -> None:
    if math.isfinite(value):
        axes.axhline(value, color="black", linewidth=0.8, linestyle=":")
        axes.annotate(words, (0.01, value), xycoords=("axes fraction", "data"), va="bottom", fontsize="small")


def _barred(bars: Bars, y: str) -> Figure:
    figure, axes = _axes("", y)
    groups = list(dict.fromkeys(group for series in bars.values() for group in series))
    width = 0.8 / max(1, len(bars))
    for number, (name, series) in enumerate(bars.items()):
        places = [
            place + (number - (len(bars) - 1) / 2) * width for place, group in enumerate(groups) if group in series
        ]
        values = [series[group] for group in groups if group in series]
        means = [float(np.mean(seeds)) for seeds in values]
        spread = [[mean - min(seeds) for mean, seeds in zip(means, values, strict=True)]]
        spread.append([max(seeds) - mean for mean, seeds in zip(means, values, strict=True)])
        axes.bar(
            places,
            means,
            width,
            label=name,
            yerr=spread if any(map(any, spread)) else None,
            color="#333333" if number == 0 else "white",
            edgecolor="black" if number == 0 else _COLOURS[number % len(_COLOURS)],
            hatch=_HATCHES[number % len(_HATCHES)],
            linewidth=0.8,
            error_kw={"linewidth": 0.8, "capsize": 1.5},
        )
    many = len(groups) > 4
    axes.set_xticks(range(len(groups)), groups, rotation=30 if many else 0, ha="right" if many else "center")
    axes.grid(visible=False, axis="x")
    _legend(figure, axes)
    return figure


def _rank_rows(axes: Axes, ranks: Sequence[int], *, is_first: bool) -> None:
    """A line between ranks, and on the first panel their names."""
    starts = [row for row, rank in enumerate(ranks) if row == 0 or rank != ranks[row - 1]]
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="black", linewidth=0.5)
    if is_first:
        ends = [*starts[1:], len(ranks)]
        middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        axes.set_yticks(middles, [str(ranks[start]) for start in starts], fontsize="x-small")
        axes.tick_params(axis="y", length=0)


def _columns(points: Curve) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _spread(num: int, most: int) -> list[int]:
    """At most so many of the numbers below `num`, evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, num - 1, min(num, most))})


def _few(names: Sequence[str]) -> tuple[list[int], list[str]]:
    places = _spread(len(names), 8)
    return places, [names[place] for place in places]
