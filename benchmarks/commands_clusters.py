"""`python -m benchmarks fidelity | policies`: on real clusters of this machine. Owns: their flags. Runs nothing."""

from dataclasses import replace
from pathlib import Path

import click

from benchmarks.baselines.systems import SYSTEMS
from benchmarks.commands_report import FOLDER
from lorajax.cli_types import EXIT_FAILED, Flag, import_on_use

_RESULTS = Path(__file__).resolve().parent / "results"
_ABOVE_0 = click.FloatRange(0, min_open=True)
_TINY = {"rate": 24.0, "scale": 0.15, "adapters": 30}
_MODEL = {"rate": 3.5, "scale": 0.03, "adapters": 10}
"""What hosts with a core each stand: 40 to 70 % of their time."""


def _systems(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise click.BadParameter(f"{unknown[0]!r} is not known; write some of {','.join(SYSTEMS)}")
    return names


_systems_option = click.option(
    "--systems",
    callback=_systems,
    default="ours,loraserve,random,contiguous,replicated",
    show_default=True,
    help="Which to compare.",
)


def _rates(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(rate) for rate in text.split(","))
    except ValueError:
        rates = ()
    if not rates or sorted(set(rates)) != list(rates) or rates[0] <= 0:
        raise click.BadParameter(f"{text}; write rising numbers with commas between, such as 20,40,60")
    return rates


@click.command(
    epilog="""\b
Examples:
  python -m benchmarks fidelity                       a tiny model, whose steps take milliseconds: 25 minutes
  python -m benchmarks fidelity --model DIR|GGUF      another one
Three hosts with a core each; run it while nothing else runs. Exits 1 where the simulator is not near.
"""
)
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="[default: a tiny one]")
@_systems_option
@click.option(
    "--rate", type=_ABOVE_0, help=f"Requests/s.  [default: {_TINY['rate']:g}; of another model {_MODEL['rate']:g}]"
)
@click.option(
    "--length-scale",
    "scale",
    type=_ABOVE_0,
    help=f"Of conversations.  [default: {_TINY['scale']:g}; of another model {_MODEL['scale']:g}]",
)
@click.option(
    "--adapters",
    type=click.IntRange(5),
    help=f"Their number.  [default: {_TINY['adapters']}; of another model {_MODEL['adapters']}]",
)
@click.option("--duration-s", type=_ABOVE_0, default=40.0, show_default=True, help="Of what is compared.")
@click.option("--warm-s", type=_ABOVE_0, default=10.0, show_default=True, help="Before it.")
@click.option(
    "--calibration-s",
    type=_ABOVE_0,
    default=10.0,
    show_default=True,
    help="At each of two rates, after each run.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of all systems; figures are their medians."
)
@click.option("--quick", is_flag=True, help="One host, two systems, seconds each: shows that it works.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the requests.")
@click.option("--out", type=FOLDER, default=_RESULTS, help="Folder of the JSON file.")
def fidelity(*, model: Path | None, quick: bool, out: Path, **options: Flag) -> int:
    """The same requests on a real local cluster and in the simulator: how far its TTFT and throughput are off."""
    fidelities = import_on_use("benchmarks.drive.fidelity")
    usual = _TINY if model is None else _MODEL
    chosen = {name: options.pop(name) or value for name, value in usual.items()}
    asked = fidelities.Asked(model=model, **chosen, **options)
    if quick:
        few = {"hosts": 1, "rounds": 1, "duration_s": 2.0, "warm_s": 1.0, "calibration_s": 2.0}
        asked = replace(asked, systems=asked.systems[:2], **few)
    is_met = fidelities.run(asked, out)
    return 0 if is_met or quick else EXIT_FAILED


@click.command()
@click.option(
    "--rates", callback=_rates, default="20,40,60,80,100,120", show_default=True, help="Requests/s, level by level."
)
@_systems_option
@click.option("--level-s", type=click.FloatRange(1), default=8.0, show_default=True, help="How long a level lasts.")
@click.option("--slo-s", type=click.FloatRange(0.01), default=0.5, show_default=True, help="95th percentile of TTFT.")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Of all systems, by turns.")
@click.option(
    "--points",
    type=click.Path(exists=True, path_type=Path),
    help="Written by `lorajax profile`.  [default: measured first, quickly]",
)
@click.option("--quick", is_flag=True, help="Two hosts, two levels of two seconds: shows that it works.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the requests.")
@click.option("--out", type=FOLDER, default=_RESULTS, help="Folder of the JSON file.")
def policies(*, quick: bool, points: Path | None, out: Path, **options: Flag) -> None:
    """Three hosts under rising, shifting load: ours beside other systems on throughput and on bytes held."""
    few = {"hosts": 2, "rates": (10.0, 20.0), "level_s": 2.0} if quick else {}
    race = import_on_use("benchmarks.policy_race")
    race.run(race.Asked(**options | few), points, out)
