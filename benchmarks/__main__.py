"""`python -m benchmarks`: the offline harness. Owns: its commands and their flags. Does not: measure."""

import os
import signal
import sys
from pathlib import Path

import click

from benchmarks import report
from benchmarks.routing import routing
from lorajax.bundled import HOW_TO_GET_MODEL, default_model
from lorajax.cli_types import Sections, import_on_use

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"
_PEERS = ("vllm", "hf")


def _peers(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    if unknown := set(names) - set(_PEERS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; write none, or some of {','.join(_PEERS)}")
    return names


def _cores(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    cores = {int(core) for core in text.split(",") if core.isdecimal()}
    if not cores or cores - os.sched_getaffinity(0):
        known = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise click.BadParameter(f"{text}; write some of {known}, with commas between")
    return tuple(sorted(cores))


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
  python -m benchmarks engine --peers none             ours alone
  taskset -c 0,1 python -m benchmarks engine           beside vLLM, installed by benchmarks/peers/setup.sh
"""
)
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="Ours; peers have a copy of the default.")
@click.option(
    "--peers",
    callback=_peers,
    default="vllm",
    show_default=True,
    help="Measured beside ours: vllm, hf (transformers with PEFT; minutes more), both as vllm,hf, or none.",
)
@click.option("--peers-dir", type=click.Path(path_type=Path), default=_ROOT / ".cache/peers", help="Made by setup.sh.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of everything that is ours.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of adapters, prompts and random batches.")
@click.option("--out", type=click.Path(path_type=Path), default=_RESULTS, help="Folder of the JSON file.")
def engine(*, model: Path | None, **options: object) -> None:
    """One engine: throughput beside other servers, the price of rank, latency, start and memory."""
    import_on_use("benchmarks.bench_engine").run(model=model or _default_model(), **options)


def _default_model() -> Path:
    if (found := default_model()) is None:
        raise click.UsageError(f"--model is missing and the default model is not installed; {HOW_TO_GET_MODEL}")
    return Path(found)


@click.command()
@click.option("--adapters", type=click.IntRange(100), default=10_000, show_default=True)
@click.option("--hosts", type=click.IntRange(8), default=256, show_default=True)
@click.option("--mixing", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="1: padded kernels.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of every case.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of ranks and demand.")
@click.option("--out", type=click.Path(path_type=Path), default=_RESULTS, help="Folder of the JSON file.")
def placement(**options: object) -> None:
    """Placement policies: seconds for a round on one core, the busiest host, the bytes moved."""
    import_on_use("benchmarks.placement").run(**options)


@click.command()
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="[default: a tiny one]")
@click.option("--transfer", type=click.Choice(("stream", "collective")), default="stream", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Each on a fresh cluster.")
@click.option("--out", type=click.Path(path_type=Path), default=_RESULTS, help="Folder of the JSON file.")
def faults(**options: object) -> None:
    """A cluster under load whose processes die, stop and leave: what is noticed when, and who is not answered."""
    import_on_use("benchmarks.faults").run(**options)


@click.command(hidden=True)
@click.option("--transfer", type=click.Choice(("stream", "collective")), default="stream", show_default=True)
@click.option("--down-s", type=click.FloatRange(5), default=10.0, show_default=True, help="For how long, in s.")
@click.option("--out", type=click.Path(path_type=Path), default=_RESULTS, help="Folder of the JSON file.")
def partition(**options: object) -> None:
    """Three network namespaces, one of them cut off for a while: run it by scripts/namespaces.sh."""
    import_on_use("benchmarks.partition").run(**options)


@click.command()
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="Whose adapters.  [default: SmolLM2-135M]")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Of every size and way.")
@click.option(
    "--moves", type=click.IntRange(0), default=10, show_default=True, help="Beside running streams, of each way."
)
@click.option("--out", type=click.Path(path_type=Path), default=_RESULTS, help="Folder of the JSON file.")
def transfer(*, model: Path | None, **options: object) -> None:
    """Adapters between hosts, beside a bare permute and a bare gRPC stream, and the gaps of streams meanwhile."""
    import_on_use("benchmarks.transfer").run(model=model or _default_model(), **options)


@click.command("front-door")
@click.option("--cores", callback=_cores, default="0,1", show_default=True, help="Where the gateway runs.")
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Of everything, by turns.")
@click.option("--messages", type=click.IntRange(1), default=400, show_default=True, help="Of a stream.")
@click.option("--pairs", type=click.IntRange(1), default=200, show_default=True, help="Of first tokens, in a round.")
@click.option("--out", type=click.Path(path_type=Path), default=_RESULTS, help="Folder of the JSON file.")
def front_door(**options: object) -> None:
    """The gateway before hosts that are idle: tokens/s that it relays, and what it adds to the first token."""
    import_on_use("benchmarks.front_door").run(**options)


@click.command()
@click.option(
    "--rates", callback=_rates, default="20,40,60,80,100,120", show_default=True, help="Requests/s, level by level."
)
@click.option("--level-s", type=click.FloatRange(1), default=8.0, show_default=True, help="How long a level lasts.")
@click.option("--slo-s", type=click.FloatRange(0.01), default=0.5, show_default=True, help="95th percentile of TTFT.")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Of all policies, by turns.")
@click.option(
    "--points",
    type=click.Path(exists=True, path_type=Path),
    help="Written by `lorajax profile`.  [default: measured first, quickly]",
)
@click.option("--quick", is_flag=True, help="Two levels of two seconds: shows that it works.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the requests.")
@click.option("--out", type=click.Path(path_type=Path), default=_RESULTS, help="Folder of the JSON file.")
def policies(*, quick: bool, **options: object) -> None:
    """Three hosts under rising, shifting load: ours beside other placements on throughput and on bytes held."""
    few = {"rates": (10.0, 20.0), "level_s": 2.0} if quick else {}
    import_on_use("benchmarks.policy_race").run(**options | few)


@click.command("report")
@click.option("--readme", is_flag=True, help="Write the tables between the markers of README.md instead of printing.")
@click.option("--results", type=click.Path(exists=True, path_type=Path), default=_RESULTS, help="Folder of JSON files.")
def report_command(*, readme: bool, results: Path) -> None:
    """Tables out of the JSON files of earlier runs."""
    if readme:
        report.write_readme(_ROOT / "README.md", results)
    else:
        print(report.engine_section(results))


main = Sections(
    name="benchmarks",
    help="The offline harness: measures, writes JSON, makes tables of it.",
    sections=(
        ("Measure", (engine, faults, front_door, partition, placement, policies, routing, transfer)),
        ("Show", (report_command,)),
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

if __name__ == "__main__":
    # So that whoever stops us finds no process of ours left.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended by SIGTERM"))
    sys.exit(main())
