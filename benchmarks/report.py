"""JSON of results to tables. Owns: how numbers are written, and the marked block of README.md. Does not: measure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

type Result = Mapping[str, Any]
"""A parsed file of results."""

_BEGIN, _END = "<!-- engine results -->", "<!-- /engine results -->"


def engine_table(result: Result) -> str:
    """The claims of one run as a Markdown table."""
    head = ["case", "ours", "reference", "ratio (quartiles)", "goal", "met"]
    rows = [head, ["---"] * len(head), *map(_row, result["claims"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


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
    return "\n\n".join(_section(json.loads(path.read_text())) for path in paths)


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


def write_readme(readme: Path, results: Path) -> None:
    """Replace what lies between the markers. Raises: click.ClickException where they are missing."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise click.ClickException(f"{readme.name} has no lines {_BEGIN} and {_END}; put them where the table belongs")
    readme.write_text(f"{before}{begin}\n{engine_section(results)}\n{end}{after}", encoding="utf-8")
