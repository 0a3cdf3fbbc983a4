"""`lorajax demo`: a server of our own, a question to everyone at once, what it cost. Owns: the order of these.
Does not: run the child (demo_server.py) or draw (demo_view.py).
"""

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from cluster.client import Client
from cluster.records import AdapterInfo, AdapterUse, Message, Question
from lorajax.bundled import EXAMPLES, HOW_TO_GET_MODEL, ExampleAdapter, default_model, example_adapters
from lorajax.cli_types import console
from lorajax.demo_server import DRAIN_S, Child, ServerDied, serving
from lorajax.demo_view import Lane, LiveView, PlainView, View, adapter_table, page_sentence, request_table
from lorajax.errors import UnsupportedModel
from lorajax.spec import Sampling

_TIMEOUT_S = 300.0
_MIXTURE_WEIGHTS = (0.6, 0.4)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the server up when done, and say how to talk to it.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the server.  [default: a free one]")
@click.option("--max-tokens", type=click.IntRange(1), default=48, show_default=True, help="Longest answer.")
def demo(*, keep: bool, port: int, max_tokens: int) -> None:
    """See it all at once, on this machine.

    Starts a server of its own, asks the base model, every example adapter and a mixture of two at the same time, shows
    the answers as they grow and what each of them cost, and stops the server.
    """
    model = default_model()
    if model is None:
        raise UnsupportedModel(f"the demo's model is not installed; {HOW_TO_GET_MODEL}")
    examples = example_adapters()
    if not examples:
        raise FileNotFoundError(f"no example adapters in {EXAMPLES}; run the demo from a checkout of the project")
    log = Path(tempfile.mkdtemp(prefix="lorajax-demo-")) / "server.log"
    is_log_wanted = keep
    try:
        lanes = plan_lanes(examples, max_tokens)
        asyncio.run(_demo(_command(model, examples, port), log, lanes, examples, keep=keep))
    except ServerDied as death:
        is_log_wanted = True
        for line in death.last_words:
            click.echo(f"    {line}", err=True)
        raise
    except asyncio.CancelledError:  # by SIGTERM or SIGHUP
        raise click.Abort from None
    finally:
        if not is_log_wanted:
            shutil.rmtree(log.parent)


def _command(model: str, examples: Sequence[ExampleAdapter], port: int) -> list[str]:
    command = [sys.executable, "-m", "lorajax", "serve", "--model", model, "--grpc", f"127.0.0.1:{port}"]
    command += ["--drain-s", str(DRAIN_S), "--adapter-root", str(EXAMPLES / "adapters")]
    for example in examples:
        command += ["--adapter", f"{example.name}={example.folder}"]
    return command


def plan_lanes(examples: Sequence[ExampleAdapter], max_tokens: int) -> list[Lane]:
    """A question to the base, one to each adapter, one to a mixture of the first two."""
    lanes = [_lane((), examples[0].question, max_tokens)]
    lanes += [_lane((AdapterUse(name=example.name),), example.question, max_tokens) for example in examples]
    if len(examples) > 1:
        pair = zip(examples, _MIXTURE_WEIGHTS, strict=False)
        mixture = tuple(AdapterUse(name=example.name, weight=weight) for example, weight in pair)
        lanes.append(_lane(mixture, examples[0].question, max_tokens))
    return lanes


def _lane(uses: tuple[AdapterUse, ...], prompt: str, max_tokens: int) -> Lane:
    names = [use.name if len(uses) == 1 else f"{use.weight:g} {use.name}" for use in uses]
    chat = (Message(role="user", content=prompt),)
    question = Question(prompt=chat, sampling=Sampling(max_tokens=max_tokens), adapters=uses)
    return Lane(title=" + ".join(names) or "base", prompt=prompt, question=question)


async def _demo(
    command: Sequence[str], log: Path, lanes: Sequence[Lane], examples: Sequence[ExampleAdapter], *, keep: bool
) -> None:
    """The whole demo; SIGTERM and SIGHUP end it in order too, so that no child stays behind."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    out = console()
    view: View = LiveView(out) if out.is_terminal else PlainView(out)
    with view:
        view.phase("starting the server")
        async with serving(command, log, view.phase) as child:
            adapters = await _ask_all(child.target, lanes, view)
            child.keep = keep
            view.phase("the server stays up" if keep else "stopping the server")
    _show_tables(out, lanes, adapters, {example.name: example.targets for example in examples})
    if keep:
        out.print(_how_to_talk(child, examples), markup=False)


async def _ask_all(target: str, lanes: Sequence[Lane], view: View) -> tuple[AdapterInfo, ...]:
    async with Client(target) as client:
        await client.wait_ready(_TIMEOUT_S)
        view.lanes(lanes)
        await asyncio.gather(*(_ask(client, lane, view) for lane in lanes))
        return await client.adapters()


async def _ask(client: Client, lane: Lane, view: View) -> None:
    async for record in client.generate(lane.question, timeout_s=_TIMEOUT_S):
        lane.add(record)
    view.finished(lane)


def _show_tables(
    out: Console, lanes: Sequence[Lane], adapters: Sequence[AdapterInfo], targets_of: dict[str, tuple[str, ...]]
) -> None:
    out.print()
    out.print(adapter_table(adapters, targets_of))
    out.print(page_sentence(adapters), style="dim")
    out.print()
    out.print(request_table(lanes))


def _how_to_talk(child: Child, examples: Sequence[ExampleAdapter]) -> str:
    return f"""
The server stays up at {child.target}. Talk to it:
  lorajax generate --target {child.target} --adapter {examples[0].name} "What is the capital of France?"
  lorajax chat --target {child.target}
  lorajax status --target {child.target}
Stop it: kill {child.process.pid}    (its log: {child.log})"""
