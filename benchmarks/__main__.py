"""`python -m benchmarks`: the offline harness. Owns: its commands and their flags. Does not: measure."""

import sys
from pathlib import Path

import click

from benchmarks import report
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
    model = model or (Path(found) if (found := default_model()) else None)
    if model is None:
        raise click.UsageError(f"--model is missing and the default model is not installed; {HOW_TO_GET_MODEL}")
    import_on_use("benchmarks.bench_engine").run(model=model, **options)


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
    sections=(("Measure", (engine,)), ("Show", (report_command,))),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

if __name__ == "__main__":
    sys.exit(main())
