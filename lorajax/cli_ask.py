"""`lorajax generate` and `lorajax chat`: ask a running server. Owns: what is asked and how answers are shown.
Does not: open sockets itself (cluster/client.py does).
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click

from cluster.client import Client
from cluster.records import AdapterUse, Message, Piece, Question, Summary
from lorajax.cli_types import ADAPTER_USE, Flag, bad_usage, call, import_on_use, target_option
from lorajax.errors import LorajaxError
from lorajax.spec import Sampling

_SAMPLING_OPTIONS = (
    click.option("--max-tokens", type=int, default=256, show_default=True, help="Longest answer, in tokens."),
    click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy, up to 2."),
    click.option("--top-p", type=float, default=1.0, show_default=True, help="Smallest set with this probability."),
    click.option("--top-k", type=int, default=0, show_default=True, help="Only the k likeliest tokens; 0 keeps all."),
    click.option(
        "--min-p", type=float, default=0.0, show_default=True, help="Drop tokens below this share of the top."
    ),
    click.option("--seed", type=int, help="Same seed, same answer.  [default: a fresh one]"),
    click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text. May be repeated."),
)
_ADAPTER_OPTION = click.option(
    "--adapter",
    "adapters",
    type=ADAPTER_USE,
    multiple=True,
    help="Answer with this adapter; repeat it for a weighted mixture.  [default: the base model]",
)
_TIMEOUT_OPTION = click.option(
    "--timeout-s", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True, help="Deadline in s."
)

type Show = Callable[[Piece | Summary], None]
"""Where each record of an answer goes."""


def _asking[F: Callable[..., Flag]](command: F) -> F:
    """The options that `generate` and `chat` share."""
    for option in reversed((target_option, _ADAPTER_OPTION, *_SAMPLING_OPTIONS, _TIMEOUT_OPTION)):
        command = option(command)
    return command


def _sampling(options: dict[str, Flag], logprobs: int | None = None) -> Sampling:
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop")
    with bad_usage():
        return Sampling(**{name: options[name] for name in names}, logprobs=logprobs)


@dataclass(slots=True)
class _Answer:
    """What has been said so far, and how it ended."""

    text: str = ""
    summary: Summary | None = None


async def _stream(client: Client, question: Question, timeout_s: float, show: Show) -> _Answer:
    """Hand every record to `show` as it comes; the whole answer at the end."""
    answer = _Answer()
    async for record in client.generate(question, timeout_s=timeout_s):
        show(record)
        if isinstance(record, Summary):
            answer.summary = record
        else:
            answer.text += record.text
    return answer


def _show_text(record: Piece | Summary) -> None:
    if isinstance(record, Piece):
        click.echo(record.text, nl=False)
    else:
        click.echo()


def _show_json(record: Piece | Summary) -> None:
    kind = "token" if isinstance(record, Piece) else "final"
    click.echo(json.dumps({kind: asdict(record)}, ensure_ascii=False))


def _speed(summary: Summary) -> str:
    """One line on how long it took and who answered."""
    timing = summary.timing
    decode_s = timing.total_s - timing.first_token_s
    rate = f", {(summary.num_completion_tokens - 1) / decode_s:.1f} tokens/s" if decode_s > 0 else ""
    return (
        f"{summary.num_completion_tokens} tokens ({summary.finish_reason}), first after {timing.first_token_s:.2f} s"
        f"{rate}, by {summary.host}"
    )


@click.command(
    epilog="""\b
Examples:
  lorajax generate "What is the capital of France?"
  lorajax generate --adapter pirate "Where is the treasure?"
  lorajax generate --adapter pirate=0.7 --adapter json=0.3 "Describe a ship"
  cat letter.txt | lorajax generate --raw --max-tokens 64 -
  lorajax generate --json --logprobs 3 "Hello" | head -1
"""
)
@_asking
@click.option(
    "--chat/--raw", "is_chat", default=True, show_default=True, help="Through the chat template, or as it is."
)
@click.option("--logprobs", type=int, metavar="N", help="Log probabilities, with N alternatives; needs --json.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per token, then one with the summary.")
@click.argument("prompt")
def generate(*, prompt: str, is_chat: bool, logprobs: int | None, as_json: bool, **options: Flag) -> None:
    """Ask once, and stream the answer as it comes.

    PROMPT is the question, or - to read it from standard input.
    """
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs has nowhere to show them without --json; add --json")
    try:
        text = sys.stdin.read() if prompt == "-" else prompt
        text.encode()  # what of an argument is not UTF-8 Python keeps as surrogates
    except UnicodeError:
        raise click.UsageError("PROMPT is not UTF-8; convert it, such as with iconv") from None
    question = Question(
        prompt=(Message(role="user", content=text),) if is_chat else text,
        sampling=_sampling(options, logprobs),
        adapters=options["adapters"],
    )
    show: Show = _show_json if as_json else _show_text
    answer = call(options["target"], lambda client: _stream(client, question, options["timeout_s"], show))
    if answer.summary and not as_json and sys.stdout.isatty():
        click.secho(_speed(answer.summary), dim=True, err=True)


@click.command(epilog="Inside: /adapter NAME[=WEIGHT] … changes adapters (none: the base), /new forgets, /quit leaves.")
@_asking
def chat(**options: Flag) -> None:
    """Talk with the model.

    What was said before is part of each question, until /new.
    """
    talk = _Talk(target=options["target"], timeout_s=options["timeout_s"], sampling=_sampling(options))
    talk.adapters = options["adapters"]
    click.echo(f"Talking to {talk.target} as {talk.who}. /adapter NAME changes adapters, /new forgets, /quit leaves.")
    with contextlib.suppress(ImportError):  # not everywhere; makes `input` a line editor
        import_on_use("readline")
    while (line := _read(f"{talk.who}> ")) is not None:
        match line.split():
            case []:
                continue
            case ["/quit" | "/exit"]:
                break
            case ["/new"]:
                talk.history = ()
            case ["/adapter", *uses]:
                talk.use(uses)
            case [word, *_] if word.startswith("/"):
                click.echo(f"{word} is not known here; there are /adapter NAME[=WEIGHT] …, /new and /quit", err=True)
            case _:
                talk.say(line)


def _read(prompt: str) -> str | None:
    """One line of the user, None at the end of input."""
    try:
        return input(prompt)
    except EOFError:
        click.echo()
        return None


@dataclass(slots=True, kw_only=True)
class _Talk:
    """One conversation. Invariant: `history` holds whole turns only, never a question without its answer."""

    target: str
    timeout_s: float
    sampling: Sampling
    adapters: tuple[AdapterUse, ...] = ()
    history: tuple[Message, ...] = ()

    @property
    def who(self) -> str:
        """Who answers, as the prompt shows it."""
        return "+".join(use.name for use in self.adapters) or "base"

    def use(self, names: list[str]) -> None:
        """Answer with these adapters from now on."""
        try:
            self.adapters = tuple(ADAPTER_USE.convert(name, None, None) for name in names)
        except click.BadParameter as error:
            click.echo(error.message, err=True)

    def say(self, line: str) -> None:
        """Ask, stream the answer, remember both; a failed or interrupted question is forgotten."""
        asked = (*self.history, Message(role="user", content=line))
        question = Question(prompt=asked, sampling=self.sampling, adapters=self.adapters)
        try:
            answer = call(self.target, lambda client: _stream(client, question, self.timeout_s, _show_text))
        except LorajaxError as error:
            click.echo(f"error: {error}", err=True)
        except KeyboardInterrupt:
            click.echo("  (stopped)")
        else:
            self.history = (*asked, Message(role="assistant", content=answer.text))
