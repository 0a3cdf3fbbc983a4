"""`python -m benchmarks steps`: this machine as hardware of the simulator. Owns: its flags. Does not: measure."""

from pathlib import Path

import click

from benchmarks.commands_report import FOLDER
from cluster.config import ServeConfig
from lorajax.cli_serve import chosen_model, engine_config, engine_options, kernels_option
from lorajax.cli_types import Flag, bad_usage, import_on_use

_RESULTS = Path(__file__).resolve().parent / "results"


@click.command(
    epilog="""\b
Examples:
  python -m benchmarks steps --name cpu                 one host, the default model
  python -m benchmarks steps --name cpu3 --hosts 3      what each of three hosts on this machine gets
Afterwards `--hardware` takes the file that is written.
"""
)
@engine_options
@kernels_option
@click.option("--hosts", type=click.IntRange(1), default=1, show_default=True, help="That measure at the same time.")
@click.option("--prompt-tokens", type=click.IntRange(4), default=64, show_default=True, help="Of a request, mean.")
@click.option("--new-tokens", type=click.IntRange(4), default=32, show_default=True, help="Likewise, generated.")
@click.option("--trial-s", type=click.FloatRange(0.05), default=2.0, show_default=True, help="How long each trial is.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the requests.")
@click.option("--name", default="cpu", show_default=True, help="Of the hardware, and of the file: steps-NAME.json.")
@click.option("--out", type=FOLDER, default=_RESULTS, help="Folder of the JSON file.")
def steps(*, hosts: int, name: str, out: Path, **options: Flag) -> None:
    """Measure how long steps take here, over prompts, batches, contexts and ranks, and fit the simulator's model."""
    with bad_usage():
        serve = ServeConfig(model=chosen_model(options), engine=engine_config(options), kernels=options["kernels"])
    config = import_on_use("benchmarks.simulator.measure").MeasureConfig(
        serve=serve, **{key: options[key] for key in ("prompt_tokens", "new_tokens", "trial_s", "seed")}
    )
    import_on_use("benchmarks.simulator.bench_steps").run(config, hosts=hosts, name=name, out=out)
