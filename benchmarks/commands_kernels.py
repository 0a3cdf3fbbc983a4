"""`python -m benchmarks kernels`. Owns: its flags, and what it says where there is no GPU. Does not: measure.

`python -m benchmarks.commands_kernels` is the same with few imports, for a machine that has JAX, click and the GPU, but
not all that the project needs.
"""

import signal
import sys
from importlib import import_module
from pathlib import Path

import click

from lorajax.errors import LorajaxError

_ROOT = Path(__file__).resolve().parent.parent
_PEERS_DIR = _ROOT / ".cache" / "kernel-peers"
_EXIT_USAGE = 2


@click.command(
    epilog="""\b
Examples:
  python -m benchmarks kernels                        on a GPU: everything, in less than 8 minutes
  python -m benchmarks kernels --cases decode-mixed --peers none
  python -m benchmarks kernels --estimate             anywhere: counts, beside each goal
"""
)
@click.option("--cases", default="all", show_default=True, help="Of their names, with commas between.")
@click.option("--quick", is_flag=True, help="A few cases, four layers of the whole step: shows that it works.")
@click.option("--estimate", "other", flag_value="estimate", help="Only count bytes and instructions, on any machine.")
@click.option("--check", "other", flag_value="check", help="Only compare numbers, small and interpreted, on any CPU.")
@click.option(
    "--tune", "other", flag_value="tune", help="Search our kernels' sizes, write this device's table instead."
)
@click.option("--fetch-peers", "other", flag_value="fetch", help="Only put the peers' files into --peers-dir.")
@click.option("--peers", type=click.Choice(("all", "none")), default="all", show_default=True)
@click.option(
    "--peers-dir",
    type=click.Path(path_type=Path),
    default=_PEERS_DIR,
    help="Their files, or their wheels; what it lacks comes from the package index.  [default: .cache/kernel-peers]",
)
@click.option(
    "--peers-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=sys.executable,
    help="Has torch and triton.  [default: this Python]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every tensor.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=_ROOT / "benchmarks/results",
    help="For the JSON file.",
)
def kernels(*, cases: str, other: str | None, peers: str, quick: bool, **options: object) -> None:
    """The kernels on a GPU: ours, padded, the peers', beside what memory and tensor cores can do at best."""
    run = import_module("benchmarks.kernels.run")
    try:
        settings = run.Options(names=run.known(cases), has_peers=peers == "all", is_quick=quick, **options)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--cases") from error
    try:
        if other == "estimate":
            import_module("benchmarks.kernels.estimate").show()
        elif other == "fetch":
            import_module("benchmarks.kernels.peer_files").provide(settings.peers_dir)
            print(settings.peers_dir)
        elif other == "check":
            import_module("benchmarks.kernels.check").show(settings)
        elif other == "tune":
            print(import_module("benchmarks.kernels.tune_run").tune(settings.seed))
        else:
            run.show(run.measure(settings))
    except run.NoGpu as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(_EXIT_USAGE) from error
    except LorajaxError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    # So that whoever stops us finds no process of ours left.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended by SIGTERM"))
    kernels()
