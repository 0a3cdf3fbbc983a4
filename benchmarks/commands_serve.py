"""`python -m benchmarks serve`: one workload on a server that runs. Owns: its flags, what is printed and written.

Does not: send (benchmarks/drive does), or compute (benchmarks/outcomes does).
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.commands_report import FOLDER
from benchmarks.workloads.options import workload_options
from benchmarks.workloads.records import Workload
from benchmarks.workloads.setting import Setting
from lorajax.cli_types import ADDRESS, DEFAULT_TARGET, EXIT_FAILED, EXIT_INTERRUPTED, Flag, import_on_use

_RESULTS = Path(__file__).resolve().parent / "results"
_SECONDS = click.FloatRange(0, min_open=True)


def slo_options[R](command: Callable[..., R]) -> Callable[..., R]:
    """Flags for a command, which gets `slo_ttft_s`, `slo_tpot_s` and `slo_e2el_s`, infinite where not said."""
    for name, what in (
        ("e2el", "Due to last token"),
        ("tpot", "Between two tokens, mean"),
        ("ttft", "Due to first token"),
    ):
        flag = click.option(
            f"--slo-{name}-s", type=_SECONDS, default=float("inf"), help=f"{what}: what counts as good."
        )
        command = flag(command)
    return command


@click.command(
    epilog="""\b
Examples:
  python -m benchmarks serve --make-adapters /tmp/adapters --model DIR --adapters 25      for a server to start with
  python -m benchmarks serve --target 127.0.0.1:50051 --adapters 25 --rate 4 --duration-s 60 --slo-ttft-s 2
  python -m benchmarks serve --url http://127.0.0.1:8000 --trace AzureLLMInferenceTrace_conv.csv --rate 2
The server may be ours, or any that answers /v1/completions: vLLM with --enable-lora --lora-modules $(cat adapters),
SGLang with --lora-paths $(cat adapters). Ctrl-C stops and tells what there is.
"""
)
@workload_options
@click.option("--target", type=ADDRESS, help=f"A server of ours, over gRPC.  [default: {DEFAULT_TARGET}]")
@click.option("--url", metavar="URL", help="An OpenAI-compatible server; its key: OPENAI_API_KEY.")
@click.option("--name", default="", help="What the report and its files call it.  [default: its address; serve]")
@slo_options
@click.option(
    "--max-concurrency", type=click.IntRange(1), help="In flight at once; waiting counts.  [default: no bound]"
)
@click.option(
    "--timeout-s", type=_SECONDS, default=600.0, show_default=True, help="After it is due, a request has failed."
)
@click.option("--text", "is_text", is_flag=True, help="Send prompts as text, about so long, instead of token ids.")
@click.option("--adapters-from-server", "from_server", is_flag=True, help="Use the server's adapters, rank by rank.")
@click.option("--make-adapters", type=click.Path(file_okay=False, path_type=Path), help="Only write adapters into DIR.")
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="Whose shapes --make-adapters takes.")
@click.option("--out", type=FOLDER, default=_RESULTS, help="Folder of the files.")
def serve(*, setting: Setting, seed: int, make_adapters: Path | None, model: Path | None, **options: Flag) -> int:
    """One workload on a running server, open loop: the block of `vllm bench serve`, by rank and adapter, JSON, HTML."""
    workload = setting(seed=seed)
    if make_adapters is not None:
        return _make(workload, make_adapters, model)
    if options["target"] and options["url"]:
        raise click.UsageError("--target and --url name two servers; write one of them")
    return _drive(workload, seed, options)


def _make(workload: Workload, folder: Path, model: Path | None) -> int:
    if model is None:
        raise click.UsageError("--model is missing: --make-adapters writes adapters of its shapes")
    path = import_on_use("benchmarks.drive.make_adapters").make_adapters(model, folder, workload.ranks)
    print(f"{len(workload.ranks)} adapters; {path} lists them")
    print(f"  lorajax serve --model {model} $(sed 's/^/--adapter /' {path})")
    largest = max(workload.ranks.values())
    print(f"  vllm serve {model} --enable-lora --max-lora-rank {largest} --lora-modules $(cat {path})")
    return 0


def _drive(workload: Workload, seed: int, options: Flag) -> int:
    run, outcomes = import_on_use("benchmarks.drive.run"), import_on_use("benchmarks.outcomes.statistics")
    sending = import_on_use("benchmarks.drive.open_loop").Sending(
        seed=seed, **{name: options[name] for name in ("timeout_s", "max_concurrency", "is_text")}
    )
    given = run.Drive(
        address=options["url"] or options["target"] or DEFAULT_TARGET,
        sending=sending,
        system=options["name"],
        from_server=options["from_server"],
    )
    click.echo(
        f"{len(workload.arrivals)} requests over {workload.span_s:.0f} s to {given.address}; Ctrl-C stops", err=True
    )
    driven = asyncio.run(run.drive(workload, given))
    facts = driven.run.facts | import_on_use("benchmarks.machine").without_device() | {"seed": seed}
    found = replace(driven.run, facts=facts)
    slo = outcomes.Slo(**{f"{name}_s": options[f"slo_{name}_s"] for name in ("ttft", "tpot", "e2el")})
    summary = outcomes.summary(found, slo)
    _show(found, summary, options["out"], _file_name(options["name"]))
    _warn(driven.sent, facts["max_model_len"])
    if not driven.sent.is_whole:
        return EXIT_INTERRUPTED
    return 0 if summary.num_successful else EXIT_FAILED


def _file_name(name: str) -> str:
    """Runs of several servers lie beside each other, as `compare` wants them."""
    return "-".join(("serve", *re.findall(r"[\w.]+", name)))


def _show(run: Flag, summary: Flag, folder: Path, file_name: str) -> None:
    block, files, page = (import_on_use(f"benchmarks.outcomes.{name}") for name in ("block", "files", "run_page"))
    path = files.write(run, summary, folder, file_name)
    print(block.text(summary))
    print(block.tables(summary))
    pictures = import_on_use("benchmarks.outcomes.pictures")  # which takes long: what was measured is safe by now
    html = page.page([files.Result(run=run, summary=summary)], pictures)
    path.with_suffix(".html").write_text(html, encoding="utf-8")
    print(f"{path}, and beside it .csv and .html")


def _warn(sent: Flag, max_model_len: int | None) -> None:
    for code, words in sent.words.items():
        click.echo(f"first {code}: {words}", err=True)
    if sent.num_clipped:
        click.echo(f"requests cut to the server's context of {max_model_len} tokens: {sent.num_clipped}", err=True)
    if sent.num_short:
        click.echo(f"answers shorter than asked for, so less work than the workload has: {sent.num_short}", err=True)
    if sent.num_uncounted:
        words = "answers without usage, so that TPOT and tokens/s count messages instead of tokens"
        click.echo(f"{words}: {sent.num_uncounted}", err=True)
    if not sent.is_whole:
        click.echo("stopped early: requests that are NOT_SENT were not due yet", err=True)
