"""`python -m benchmarks sweep`. Owns: its flags. Does not: simulate, search, judge."""

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.commands_report import FOLDER, RESULTS
from lorajax.cli_types import Flag, Parsed, import_on_use

_STORE = Path(__file__).resolve().parent.parent / ".cache" / "sweep"
_SETTINGS = (
    "loraserve-uniform-uniform,loraserve-uniform-shifting,loraserve-uniform-exponential,"
    "loraserve-poisson-uniform,loraserve-poisson-shifting,loraserve-poisson-exponential,"
    "production-50,production-100,production-200"
)
"""Those of LoRAServe's paper."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(",") if text)
    except ValueError:
        numbers = (0.0,)
    if any(not 0 < number < float("inf") for number in numbers):
        raise ValueError(f"{text!r} is no list of numbers above 0; write them with commas between, such as 2,10")
    return numbers


_NAMES, _NUMBERS = Parsed("NAME,…", _names), Parsed("NUMBER,…", _numbers)
_ABOVE_0 = click.FloatRange(0, min_open=True)


@click.command(
    epilog="""\b
Examples:
  python -m benchmarks sweep --jobs 4                               everything, for hours; goes on where it stopped
  python -m benchmarks sweep --settings zipf --systems ours,loraserve --seeds 1 --name sweep-zipf
  python -m benchmarks report benchmarks/results/sweep.json         its page and pictures
Settings of your own are tables of a TOML file, with the flags of `python -m benchmarks workload`:
  [azure]
  trace = "AzureLLMInferenceTrace_conv.csv"
  popularity = "zipf"
  adapters = 100
"""
)
@click.option("--settings", type=_NAMES, default=_SETTINGS, help="Workloads by name.  [default: LoRAServe's nine]")
@click.option("--settings-file", type=click.Path(exists=True, path_type=Path), help="TOML, for names of your own.")
@click.option("--systems", type=_NAMES, default="all", show_default=True, help="Of those in benchmarks/baselines.")
@click.option("--kernels", type=_NAMES, default="rank-exact,batch-max", show_default=True, help="Each for each system.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Of everything.")
@click.option("--slo-s", "slos_s", type=_NUMBERS, default="10,2", show_default=True, help="P95 TTFT; each apart.")
@click.option("--hosts", type=click.IntRange(1), default=4, show_default=True, help="Where the load is searched.")
@click.option("--hardware", default="a100-tp4-llama-7b-slora", show_default=True, help="A preset of the simulator.")
@click.option("--duration-s", type=_ABOVE_0, default=300.0, show_default=True, help="Of what counts.")
@click.option("--warm-s", type=click.FloatRange(0), default=60.0, show_default=True, help="Before it.")
@click.option(
    "--pace", type=_ABOVE_0, help="Of days and drift, not of traces: 1 as in life.  [default: their own, or 5]"
)
@click.option("--interval-s", type=_ABOVE_0, default=10.0, show_default=True, help="Between rounds of placement.")
@click.option("--resolution", type=click.FloatRange(0.001, 1), default=0.03, show_default=True, help="Of loads.")
@click.option("--need", type=_NUMBERS, default="", help="Requests/s for which the fewest hosts are found.")
@click.option("--most-hosts", type=click.IntRange(1), default=12, show_default=True, help="Tried for --need.")
@click.option("--curves/--no-curves", "has_curves", default=True, help="Loads around the limit: half of all the time.")
@click.option("--trials/--no-trials", "has_trials", default=True, help="Wrong forecasts, a lost host, a crowd.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Simulations at once.")
@click.option("--store", type=click.Path(path_type=Path), default=_STORE, help="Folder of finished simulations.")
@click.option("--name", default="sweep", show_default=True, help="Of the JSON file; README takes those in sweep*.")
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the JSON file.")
def sweep(*, name: str, out: Path, jobs: int, **options: Flag) -> None:
    """Every system under every setting, simulated: the most load within the SLO, hosts for a load, robustness."""
    search, simulated = (import_on_use(f"benchmarks.sweep.{module}") for module in ("search", "simulated"))
    _check("hardware", (options["hardware"],), simulated.PRESETS)
    parts = ("hardware", "duration_s", "warm_s", "pace", "interval_s", "store", "settings_file")
    plan = simulated.Plan(**{part: options.pop(part) for part in parts})
    known = {"settings": plan.settings(), "systems": simulated.SIMULATED, "kernels": simulated.KERNELS}
    if options["systems"] == ("all",):
        options["systems"] = tuple(simulated.SYSTEMS)
    for flag, names in known.items():
        _check(flag, options[flag], names)
    search.run(search.Wanted(**options), plan, jobs, out / f"{name}.json")


def _check(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise click.BadParameter(f"{unknown[0]!r}; write some of {', '.join(known)}", param_hint=f"--{flag}")
