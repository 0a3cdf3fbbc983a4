"""`python -m benchmarks simulate`. Owns: its flags, what is printed and written. Does not: simulate, or compute."""

import math
import time
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.commands_report import FOLDER, RESULTS
from benchmarks.commands_serve import slo_options
from benchmarks.workloads.options import workload_options
from benchmarks.workloads.setting import Setting
from lorajax.cli_types import SIZE, Flag, Parsed, bad_usage, import_on_use

_SECONDS = click.FloatRange(0, min_open=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _loss(text: str) -> tuple[int, float, float]:
    host, _, times = text.partition("@")
    at_s, _, back_s = times.partition("-")
    try:
        return int(host), float(at_s), float(back_s or math.inf)
    except ValueError:
        raise ValueError(f"{text!r} is not HOST@SECONDS or HOST@SECONDS-SECONDS, such as 0@300-420") from None


def _factors(text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise ValueError(f"{text!r} is not FACTOR or FACTOR,FACTOR, such as 0.5,1.5") from None


_LOSS, _FACTORS = Parsed("HOST@S[-S]", _loss), Parsed("FACTOR[,FACTOR]", _factors)


@click.command(
    epilog="""\b
Examples:
  python -m benchmarks simulate --system ours,loraserve --hosts 4 --rate 8 --duration-s 600 --slo-ttft-s 10
  python -m benchmarks simulate --hosts 64 --adapters 1000 --rate 141 --duration-s 3600
  python -m benchmarks simulate --trace AzureLLMInferenceTrace_conv.csv --lose 0@300-420 --forecast 0.5,1.5
"""
)
@workload_options
@click.option("--system", "systems", type=Parsed("NAME,…", _names), default="ours", show_default=True, help="Who.")
@click.option(
    "--hardware", default="a100-tp4-llama-7b-slora", show_default=True, help="A preset, or a file of `steps`."
)
@click.option("--kernels", help="Other than the hardware's own: rank-exact, batch-max, server-max.")
@click.option("--hosts", "num_hosts", type=click.IntRange(1), default=4, show_default=True)
@slo_options
@click.option("--interval-s", type=_SECONDS, default=30.0, show_default=True, help="Between rounds of placement.")
@click.option("--budget", "budget_bytes", type=SIZE, default="1GiB", show_default=True, help="On its way to balance.")
@click.option("--min-copies", type=click.IntRange(1), default=1, show_default=True, help="Of each adapter.")
@click.option("--deadline-s", type=_SECONDS, help="Of each request.  [default: none]")
@click.option("--lose", "losses", type=_LOSS, multiple=True, help="A host that dies then, and comes back then.")
@click.option("--cut", "cuts", type=_LOSS, multiple=True, help="The same, but no connection breaks.")
@click.option("--forecast", type=_FACTORS, default="1", help="Tokens that the coordinator sees, times one of these.")
@click.option("--token-times", "keeps_tokens", is_flag=True, help="Keep when each token came, for ITL.")
@click.option("--placements", "keeps_placements", is_flag=True, help="Keep what each round placed, for its picture.")
@click.option(
    "--seeds", "num_seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs, from --seed on."
)
@click.option("--name", help="Of the files.  [default: simulate-SYSTEM]")
@click.option("--out", type=FOLDER, default=RESULTS, help="Folder of the files.")
def simulate(
    *, setting: Setting, seed: int, systems: tuple[str, ...], num_seeds: int, name: str | None, out: Path, **flags: Flag
) -> None:
    """One workload on a simulated cluster of the product's own control plane: the block of `serve`, JSON, CSV, HTML."""
    known = import_on_use("benchmarks.baselines.systems").SIMULATED
    for system in systems:
        if system not in known:
            raise click.UsageError(f"--system {system} is not known; write some of {','.join(known)}")
    with bad_usage():
        config = _config(flags)
    for system in systems:
        runs: list[Flag] = []
        try:
            runs.extend(_simulated(setting, known[system], config, seed + number) for number in range(num_seeds))
        finally:  # also where somebody has stopped it: what is finished is told
            if runs:
                _show(runs, config.slo, out, name if name and len(systems) == 1 else f"{name or 'simulate'}-{system}")


def _config(flags: Flag) -> Flag:
    """Raises ValueError that starts with the name of a flag."""
    records = import_on_use("benchmarks.simulator.config")
    slo = import_on_use("benchmarks.outcomes.statistics").Slo(
        **{f"{part}_s": flags.pop(f"slo_{part}_s") for part in ("ttft", "tpot", "e2el")}
    )
    losses = [
        records.Loss(host=host, at_s=at_s, back_s=back_s, is_silent=kind == "cuts")
        for kind in ("losses", "cuts")
        for host, at_s, back_s in flags.pop(kind)
    ]
    low, high = flags.pop("forecast")
    return records.SimulationConfig(
        hardware=_hardware(flags.pop("hardware"), flags.pop("kernels")),
        slo=slo,
        losses=tuple(losses),
        distortion=records.Distortion(low=low, high=high),
        **flags,
    )


def _hardware(name: str, kernels: str | None) -> Flag:
    presets = import_on_use("benchmarks.simulator.presets").PRESETS
    if name not in presets and not Path(name).exists():
        raise ValueError(f"hardware {name} is no preset and no file; write a path, or one of {', '.join(presets)}")
    found = presets[name] if name in presets else import_on_use("benchmarks.simulator.hardware_files").read(Path(name))
    if kernels is None:
        return found
    known = import_on_use("benchmarks.simulator.device").Kernels
    if kernels not in list(known):
        raise ValueError(f"kernels {kernels} are not known; write one of {', '.join(known)}")
    return found.with_kernels(known(kernels))


def _simulated(setting: Setting, system: Flag, config: Flag, seed: int) -> Flag:
    workload = setting(seed=seed)
    began_s = time.perf_counter()
    run = import_on_use("benchmarks.simulator.cluster").simulate(workload, system, replace(config, seed=seed))
    took_s = time.perf_counter() - began_s
    words = f"{system.name}: {len(run.outcomes)} requests over {run.span_s:.0f} s, simulated in {took_s:.1f} s"
    click.echo(words, err=True)
    return replace(run, facts={**run.facts, **import_on_use("benchmarks.machine").without_device(), "seed": seed})


def _show(runs: list[Flag], slo: Flag, folder: Path, name: str) -> None:
    block, files, page, pictures, statistics = (
        import_on_use(f"benchmarks.outcomes.{part}")
        for part in ("block", "files", "run_page", "pictures", "statistics")
    )
    results = [files.Result(run=run, summary=statistics.summary(run, slo)) for run in runs]
    for result in results:
        print(block.text(result.summary))
        print(block.tables(result.summary))
    path = files.write_all(results, folder, name)
    path.with_suffix(".html").write_text(page.page(results, pictures), encoding="utf-8")
    print(f"{path}, and beside it .csv and .html")
