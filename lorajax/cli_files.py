"""`lorajax convert` and `lorajax doctor`: look at files and at this machine. Owns: their flags.
Does not: the work, which needs JAX (convert.py, doctor.py).
"""

import os
from pathlib import Path

import click

from cluster.config import format_bytes
from lorajax.bundled import default_model
from lorajax.cli_cluster import find_plan, node_options
from lorajax.cli_serve import engine_config, serving_options
from lorajax.cli_types import DTYPES, Flag, import_on_use


@click.command(
    epilog="""\b
Examples:
  lorajax convert ~/models/SmolLM2-135M-Instruct.Q4_1.gguf ~/models/smollm2
  lorajax convert ~/models/qwen3-0.6b ~/models/qwen3-float32 --dtype float32
"""
)
@click.option("--to", type=click.Choice(["orbax"]), default="orbax", show_default=True, help="Format of DST.")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True, help="Of the weights in DST."
)
@click.argument("source", metavar="SRC", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
def convert(*, to: str, dtype: str, source: Path, target: Path) -> None:
    """Copy a base model into another format.

    SRC is a Hugging Face or Orbax folder or a GGUF file; DST a new folder, which gets the tokenizer too.
    """
    num_bytes = import_on_use("lorajax.convert").convert(source, target, dtype)
    click.echo(f"{target}: {to}, {dtype}, {format_bytes(num_bytes)}")


@click.command()
@serving_options
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="For `launch`: its file.")
@node_options
def doctor(*, config: Path | None, node_rank: int | None, is_local: bool, **options: Flag) -> int:
    """Check what `serve` or `launch` would need of this machine.

    Give it the flags that `serve` would get, or --config and the flags that `launch` would get. Exits 1 if something is
    broken.
    """
    if config is None:
        model = options["model"] or default_model()
        verdicts = import_on_use("lorajax.doctor").examine(model, options["grpc"], engine_config(options))
    else:
        plan, nodes = find_plan(config, node_rank, is_local=is_local)
        verdicts = import_on_use("lorajax.doctor").examine_cluster(plan, nodes, os.environ)
    for verdict in verdicts:
        click.echo(f"{verdict.grade:8}{verdict.subject:14}{verdict.words}")
    return 1 if any(verdict.grade == "broken" for verdict in verdicts) else 0
