"""`python -m benchmarks workload`: what a workload is. Owns: its flags. Does not: make it, send it."""

from pathlib import Path

import click

from benchmarks.workloads import figures, files
from benchmarks.workloads.options import workload_options
from benchmarks.workloads.setting import Setting


@click.command(
    epilog="""\b
Examples:
  python -m benchmarks workload --workload production-200 --duration-s 3600 --rate 30
  python -m benchmarks workload --trace azure.csv --popularity gentd26.csv.gz --rate 40 --out mine.jsonl.gz
  python -m benchmarks workload --trace mine.jsonl.gz      the very same again
"""
)
@workload_options
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Adapters to print.")
@click.option("--out", type=click.Path(path_type=Path), help="Write it as JSON lines, which --trace takes.")
def workload(*, setting: Setting, seed: int, top: int, out: Path | None) -> None:
    """Who asks for what, and when: requests, bursts, lengths, popular adapters, tokens per rank."""
    made = setting(seed=seed)
    print(figures.text(made, top))
    if out is not None:
        files.write(out, made)
        print(f"wrote {out}")
