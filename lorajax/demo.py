"""`lorajax demo`: a cluster of our own, a question to everyone at once, traffic that shifts. Owns: the order of these.

Does not: run the child (demo_server.py), make the traffic (demo_burst.py) or draw (demo_view.py).
"""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from cluster.child_process import tied
from cluster.client import Client
from cluster.records import AdapterInfo, AdapterUse, Message, Question
from lorajax.bundled import EXAMPLES, HOW_TO_GET_MODEL, ExampleAdapter, default_model, example_adapters
from lorajax.cli_types import console
from lorajax.demo_burst import Board, Record, Traffic, burst
from lorajax.demo_cluster import cluster_toml, command
from lorajax.demo_server import Child, ServerDied, serving
from lorajax.demo_view import (
    Lane,
    LiveView,
    PlainView,
    View,
    adapter_table,
    board_summary,
    page_sentence,
    request_table,
)
from lorajax.errors import UnsupportedModel
from lorajax.spec import Sampling

_TIMEOUT_S = 300.0
_MIXTURE_WEIGHTS = (0.6, 0.4)
_FAVOURITES = ("pirate", "haiku")
"""Of the burst."""
_HOW_TO_GO_ON = """
Go on:
  lorajax demo --keep      leave the cluster up, and say how to talk to it
  lorajax launch --help    start one of your own"""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the cluster up when done, and say how to talk to it.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of its gateway.  [default: a free one]")
@click.option("--max-tokens", type=click.IntRange(1), default=48, show_default=True, help="Longest answer.")
def demo(*, keep: bool, port: int, max_tokens: int) -> None:
    """See it all at once, on this machine.

    Starts a cluster of three hosts, asks the base model, every example adapter and a mixture of two at the same time
    and shows the answers as they grow; then keeps it busy with requests that shift from one adapter to another, shows
    how the placement follows, and stops the cluster.
    """
    model = default_model()
    if model is None:
        raise UnsupportedModel(f"the demo's model is not installed; {HOW_TO_GET_MODEL}")
    examples = example_adapters()
    if not examples:
        raise FileNotFoundError(f"no example adapters in {EXAMPLES}; run the demo from a checkout of the project")
    folder = Path(tempfile.mkdtemp(prefix="lorajax-demo-"))
    is_folder_wanted = keep
    try:
        (folder / "cluster.toml").write_text(cluster_toml(model, examples, port), encoding="utf-8")
        asyncio.run(_demo(folder, plan_lanes(examples, max_tokens), examples, keep=keep))
    except ServerDied as death:
        is_folder_wanted = True
        for line in death.last_words:
            click.echo(f"    {line}", err=True)
        raise
    except asyncio.CancelledError:  # by SIGTERM or SIGHUP
        raise click.Abort from None
    finally:
        if not is_folder_wanted:
            shutil.rmtree(folder)


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


def plan_traffic(examples: Sequence[ExampleAdapter]) -> Traffic:
    """Every adapter is asked its own question; the favourites are those that we have of ours."""
    questions = {example.name: example.question for example in examples}
    favourites = tuple(name for name in _FAVOURITES if name in questions)
    return Traffic(questions=questions, favourites=favourites or tuple(questions))


async def _demo(folder: Path, lanes: Sequence[Lane], examples: Sequence[ExampleAdapter], *, keep: bool) -> None:
    """The whole demo; SIGTERM and SIGHUP end it in order too, so that no child stays behind."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    out = console()
    view: View = LiveView(out) if out.is_terminal else PlainView(out)
    launch = command(folder / "cluster.toml")
    with view:
        view.phase("starting a cluster: rendezvous, coordinator, gateway and three hosts (each compiles at first)")
        async with serving(launch if keep else tied(launch), folder / "launch.log", view.phase) as child:
            board, adapters = await _show_cluster(child.target, lanes, plan_traffic(examples), view)
            child.keep = keep
            view.phase("the cluster stays up" if keep else "stopping the cluster")
    _show_tables(out, lanes, adapters, {example.name: example.targets for example in examples})
    out.print(board_summary(board), markup=False)
    out.print(_how_to_talk(child, examples) if keep else _HOW_TO_GO_ON, markup=False)


async def _show_cluster(
    target: str, lanes: Sequence[Lane], traffic: Traffic, view: View
) -> tuple[Board, tuple[AdapterInfo, ...]]:
    async with Client(target) as client:
        await client.wait_ready(_TIMEOUT_S)
        record = Record(traffic=traffic)
        record.look(await client.adapters())
        view.phase("one question to each")
        view.lanes(lanes)
        await asyncio.gather(*(_ask(client, lane, view) for lane in lanes))
        view.phase(f"{traffic.num_streams} requests at a time, first mostly to {', then to '.join(traffic.favourites)}")
        board = await burst(client, record, view.board)
        return board, await client.adapters()


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
The cluster stays up at {child.target}. Talk to it:
  lorajax generate --target {child.target} --adapter {examples[0].name} "What is the capital of France?"
  lorajax chat --target {child.target}
  lorajax status --target {child.target}
Stop it: kill {child.process.pid}    (its configuration, state and logs: {child.log.parent})"""
