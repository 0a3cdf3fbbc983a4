"""`lorajax profile`: what this machine sustains, by rank. Owns: its flags, and the table that is shown.

Does not: measure (cluster/profile.py), or say what follows (cluster/profile_points.py).
"""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import click
from click.core import ParameterSource
from rich.table import Table

from cluster import operating_points
from cluster.cluster_config import ClusterConfig, read
from cluster.config import ServeConfig, format_bytes
from cluster.process import run as run_process
from cluster.profile_points import Profile, ProfileConfig, Slo, name
from lorajax.cli_serve import chosen_model, engine_config, engine_options, kernels_option
from lorajax.cli_types import Flag, Parsed, bad_usage, console, import_on_use
from lorajax.config import EngineConfig

_QUICK_S = 0.2


def _ranks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(rank) for rank in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of ranks; write numbers and commas, such as 8,16,128") from None


def _out(text: str) -> Path:
    """A file that may be written: none yet, or operating points."""
    path = Path(text)
    if not os.access(path.absolute().parent, os.W_OK):
        raise ValueError(f"no file can be made in {path.absolute().parent}; name another place")
    if path.exists():
        try:
            operating_points.read(path)
        except (ValueError, OSError):
            raise ValueError(f"{path} is there and holds no operating points; name another file") from None
    return path


@click.command(
    epilog="""\b
Examples:
  lorajax profile                                        the default model, flags as for `serve`
  lorajax profile --config cluster.toml                  what the hosts of a cluster serve, within its latency target
  lorajax profile --config cluster.toml --ranks 8,32,256 --ttft-p95-s 1
Run it on one host while nothing else does, and name the file in cluster.toml:
  [placement]
  operating_points = "operating-points.json"
"""
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take what no flag says from this cluster.toml: model, engine, kernels and latency target.",
)
@engine_options
@kernels_option
@click.option(
    "--ranks", type=Parsed("RANK,…", _ranks), default="8,16,32,64,128", show_default=True, help="Measure these."
)
@click.option(
    "--ttft-p95-s",
    type=click.FloatRange(0, min_open=True),
    help="Request to first token, 95th percentile.  [default: 2]",
)
@click.option(
    "--tbt-p95-s", type=click.FloatRange(0, min_open=True), help="Between two tokens, likewise.  [default: 0.2]"
)
@click.option(
    "--prompt-tokens", type=click.IntRange(2), default=64, show_default=True, help="Of a request, on average."
)
@click.option("--new-tokens", type=click.IntRange(4), default=32, show_default=True, help="Likewise, generated.")
@click.option(
    "--out", type=Parsed("FILE", _out), default="operating-points.json", show_default=True, help="Write here."
)
@click.option("--quick", is_flag=True, help="Seconds instead of minutes, and figures that are worth as little.")
def profile(*, out: Path, **options: Flag) -> int:
    """Measure the tokens/s that this machine sustains within the latency target, by rank."""
    with bad_usage():
        config = _profile_config(options)
    return run_process("profile", partial(_profile, config, out))


def _profile(config: ProfileConfig, out: Path) -> int:
    measured: Profile = import_on_use("cluster.profile").run(config)
    operating_points.write(out, measured.points)
    _show(measured)
    click.echo(f"written: {out}")
    return 0


def _profile_config(options: Mapping[str, Flag]) -> ProfileConfig:
    given, slo = _given(options), Slo()
    if options["config"] is None:
        serve = ServeConfig(
            model=chosen_model(dict(options)), engine=engine_config(dict(options)), kernels=options["kernels"]
        )
    else:
        file = read(options["config"], Path())
        serve, slo = _serve_config(file, given), Slo(ttft_p95_s=file.ttft_p95_s, tbt_p95_s=file.tbt_p95_s)
    return ProfileConfig(
        serve=serve,
        slo=replace(slo, **{key: given[key] for key in ("ttft_p95_s", "tbt_p95_s") if key in given}),
        ranks=options["ranks"],
        prompt_tokens=options["prompt_tokens"],
        new_tokens=options["new_tokens"],
        **{"trial_s": _QUICK_S} if options["quick"] else {},
    )


def _serve_config(file: ClusterConfig, given: Mapping[str, Flag]) -> ServeConfig:
    """What a host of the cluster serves, but for what flags say."""
    sizes = {field.name: given[field.name] for field in fields(EngineConfig) if field.name in given}
    return ServeConfig(
        model=given.get("model", str(file.model)),
        engine=replace(file.engine, **sizes),
        kernels=given.get("kernels", file.kernels),
    )


def _given(options: Mapping[str, Flag]) -> dict[str, Flag]:
    """The flags that were written."""
    source_of = click.get_current_context().get_parameter_source
    return {flag: value for flag, value in options.items() if source_of(flag) is ParameterSource.COMMANDLINE}


def _show(profile: Profile) -> None:
    out, slo, points = console(), profile.slo, profile.points
    title = f"sustained within p95 TTFT {slo.ttft_p95_s:g} s and p95 TBT {slo.tbt_p95_s:g} s"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("requests")
    for column in ("tokens/s", "p95 TTFT", "p95 TBT", "concurrency"):
        table.add_column(column, justify="right")
    for kind in sorted(profile.trials, key=lambda kind: (len(kind), kind)):
        best = profile.sustained(kind)
        times = f"{best.ttft_p95_s:.3g} s", f"{best.tbt_p95_s * 1e3:.3g} ms"
        table.add_row(name(kind), f"{best.tokens_per_s:,.0f}", *times, str(best.concurrency))
    out.print(table)
    out.print(f"mixing {points.mixing:.2f} (0: a token costs its own rank, 1: the largest beside it)")
    out.print(f"an adapter comes from another host at {format_bytes(int(points.fetch_bytes_per_s))}/s, over loopback")
    for words in profile.doubts:
        out.print(f"note: {words}", style="yellow")
