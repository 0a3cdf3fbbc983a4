"""`python -m benchmarks`: the offline harness. Owns: its commands and their flags. Does not: measure."""

import os
import signal
import sys
from pathlib import Path

import click

from benchmarks.commands_clusters import fidelity, policies
from benchmarks.commands_kernels import kernels
from benchmarks.commands_report import FOLDER, RESULTS, compare, report_command
from benchmarks.commands_serve import serve
from benchmarks.commands_simulate import simulate
from benchmarks.commands_steps import steps
from benchmarks.commands_sweep import sweep
from benchmarks.commands_workload import workload
from benchmarks.routing import routing
from lorajax.bundled import HOW_TO_GET_MODEL, default_model
from lorajax.cli_types import Sections, import_on_use

_ROOT = Path(__file__).resolve().parent.parent
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
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the JSON file.")
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
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the JSON file.")
def placement(**options: object) -> None:
    """Placement policies: seconds for a round on one core, the busiest host, the bytes moved."""
    import_on_use("benchmarks.placement").run(**options)


@click.command()
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="[default: a tiny one]")
@click.option("--transfer", type=click.Choice(("stream", "collective")), default="stream", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Each on a fresh cluster.")
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the JSON file.")
def faults(**options: object) -> None:
    """A cluster under load whose processes die, stop and leave: what is noticed when, and who is not answered."""
    import_on_use("benchmarks.faults").run(**options)


@click.command(hidden=True)
@click.option("--transfer", type=click.Choice(("stream", "collective")), default="stream", show_default=True)
@click.option("--down-s", type=click.FloatRange(5), default=10.0, show_default=True, help="For how long, in s.")
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the JSON file.")
def partition(**options: object) -> None:
    """Three network namespaces, one of them cut off for a while: run it by scripts/namespaces.sh."""
    import_on_use("benchmarks.partition").run(**options)


@click.command()
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="Whose adapters.  [default: SmolLM2-135M]")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Of every size and way.")
@click.option(
    "--moves", type=click.IntRange(0), default=10, show_default=True, help="Beside running streams, of each way."
)
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the JSON file.")
def transfer(*, model: Path | None, **options: object) -> None:
    """Adapters between hosts, beside a bare permute and a bare gRPC stream, and the gaps of streams meanwhile."""
    import_on_use("benchmarks.transfer").run(model=model or _default_model(), **options)


@click.command("front-door")
@click.option("--cores", callback=_cores, default="0,1", show_default=True, help="Where the gateway runs.")
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Of everything, by turns.")
@click.option("--messages", type=click.IntRange(1), default=400, show_default=True, help="Of a stream.")
@click.option("--pairs", type=click.IntRange(1), default=200, show_default=True, help="Of first tokens, in a round.")
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the JSON file.")
def front_door(**options: object) -> None:
    """The gateway before hosts that are idle: tokens/s that it relays, and what it adds to the first token."""
    import_on_use("benchmarks.front_door").run(**options)


main = Sections(
    name="benchmarks",
    help="The offline harness: measures, writes JSON, makes tables of it.",
    sections=(
        (
            "Measure",
            (
                engine,
                faults,
                fidelity,
                front_door,
                kernels,
                partition,
                placement,
                policies,
                routing,
                serve,
                simulate,
                steps,
                sweep,
                transfer,
            ),
        ),
        ("Show", (compare, report_command, workload)),
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

if __name__ == "__main__":
    # So that whoever stops us finds no process of ours left.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended by SIGTERM"))
    sys.exit(main())
