"""JSON of results to tables. Owns: how numbers are written, and the marked parts of README.md. Does not: measure."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.outcomes import sweep_tables, sweeps

_MARKED = re.compile(r"^<!-- (\S+) results -->$", re.MULTILINE)

type Result = Mapping[str, Any]
"""A parsed file of results."""


def engine_table(result: Result) -> str:
    """The claims of one run as a Markdown table."""
    return markdown([["case", "ours", "reference", "ratio (quartiles)", "goal", "met"], *map(_row, result["claims"])])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table; the first is the head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in lines)


def _row(claim: Result) -> list[str]:
    ours, reference, ratio = claim["ours_spread"]["median"], claim["reference_spread"]["median"], claim["ratio"]
    goal = claim["goal"]
    sign = "≥" if claim["goal_is"] == "at least" else "≤"
    return [
        claim["case"],
        f"{_number(ours)} {claim['unit']}".strip(),
        _number(reference),
        f"{ratio['median']:.3g} ({ratio['low']:.3g} … {ratio['high']:.3g})",
        "" if goal is None else f"{sign} {goal:g}",
        {None: "", True: "yes", False: "no"}[claim["is_met"]],
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def engine_section(results: Path) -> str:
    """Every engine result of a folder: its table, and below it where it was measured and how to print it.

    Raises: click.ClickException where there is none.
    """
    paths = sorted(results.glob("engine-*.json"))
    if not paths:
        raise click.ClickException(f"no engine-*.json in {results}; run `python -m benchmarks engine` first")
    return "\n\n".join(_told(path, _section) for path in paths)


def _told(path: Path, words_of: Callable[[Result], str]) -> str:
    try:
        return words_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no whole result ({error!r}); write it again, or move it away") from error


def _section(result: Result) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{engine_table(result)}\n\n"
        f"{result['model']} in {result['dtype']} on {result['cores']} cores of {result['cpu']}; "
        f"{result['batch']} greedy requests of {result['new_tokens']} new tokens unless the case says otherwise; "
        f'"decoding" is the batch over the median step, of peers that would need minutes for so many tokens and '
        f"generate {result['slow_new_tokens']}. Medians of up to {result['rounds']} rounds by turns, ratios within "
        f"a round; kernels {result['kernels']}, seed {result['seed']}; {versions}. Printed by `{result['command']}`."
    )


def sweep_section(results: Path) -> str:
    """The tables of every sweep of a folder, and below them how it was made.

    Raises: click.ClickException where there is none.
    """
    paths = sorted(results.glob("sweep*.json"))
    if not paths:
        raise click.ClickException(f"no sweep*.json in {results}; run `python -m benchmarks sweep` first")
    return "\n\n".join(_sweep(sweeps.read(path)) for path in paths)


def _sweep(sweep: sweeps.Sweep) -> str:
    parts = [f"**{heading}.** {words}\n\n{markdown(table)}" for heading, words, table in sweep_tables.summed_up(sweep)]
    kept = {name: value for name, value in sweep.facts.items() if name not in ("command", "versions")}
    facts = "; ".join(f"{name} {_words(value)}" for name, value in kept.items())
    return "\n\n".join((*parts, f"Simulated: {facts}. Printed by `{sweep.facts['command']}`."))


def fidelity_section(results: Path) -> str:
    """How far the simulator is from real clusters, for every comparison of a folder.

    Raises: click.ClickException where there is none.
    """
    paths = sorted(results.glob("fidelity*.json"))
    if not paths:
        raise click.ClickException(f"no fidelity*.json in {results}; run `python -m benchmarks fidelity` first")
    return "\n\n".join(_told(path, _fidelity) for path in paths)


def _fidelity(result: Result) -> str:
    head = ["system", "figure", "real", "simulated", "difference"]
    table = markdown([head, *map(_compared, result["rows"])])
    order = result["order"]
    return (
        f"{table}\n\n{result['hosts']} hosts of {result['model']} on {result['cores']} cores of {result['cpu']}; "
        f"goal: every difference within {result['goal']:.0%}, met: {'yes' if result['is_met'] else 'no'}. Of "
        f"{order['pairs']} pairs of systems that are apart in reality the simulator has {order['alike']} the same way "
        f"round. Printed by `{result['command']}`."
    )


def _compared(row: Result) -> list[str]:
    is_time = row["metric"].endswith("TTFT")
    real, simulated = (f"{row[side] * 1e3:.0f} ms" if is_time else f"{row[side]:.0f}" for side in ("real", "simulated"))
    return [row["system"], row["metric"], real, simulated, f"{row['difference']:+.1%}"]


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


SECTIONS: Mapping[str, Callable[[Path], str]] = {
    "engine": engine_section,
    "fidelity": fidelity_section,
    "sweep": sweep_section,
}
"""What README.md can hold, between <!-- NAME results --> and <!-- /NAME results -->; besides any sweep by itself."""


def sections(results: Path) -> str:
    """Every section for which a folder has results. Raises: click.ClickException where it has none at all."""
    found, missing = [], []
    for section in SECTIONS.values():
        try:
            found.append(section(results))
        except click.ClickException as error:
            missing.append(error.message)
    if not found:
        raise click.ClickException("; ".join(missing))
    return "\n\n".join(found)


def write_readme(readme: Path, results: Path) -> None:
    """Replace what lies between the markers of each section that is marked.

    Raises: click.ClickException where nothing is, or where a marked section has no results.
    """
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    marked = [name for name in _MARKED.findall(text) if _markers(name)[1] in text]
    if not marked:
        begin, end = _markers("engine")
        raise click.ClickException(f"{readme.name} has no lines {begin} and {end}; put them where the table belongs")
    for name in marked:
        begin, end = _markers(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{_named(name, results)}\n{end}{rest.partition(end)[2]}"
    readme.write_text(text, encoding="utf-8")


def _named(name: str, results: Path) -> str:
    """A section, or one sweep by the name of its file."""
    if name in SECTIONS:
        return SECTIONS[name](results)
    path = results / f"{name}.json"
    if not path.exists():
        raise click.ClickException(f"no {path}; `python -m benchmarks sweep --name {name}` writes it")
    return _sweep(sweeps.read(path))


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} results -->", f"<!-- /{name} results -->"
