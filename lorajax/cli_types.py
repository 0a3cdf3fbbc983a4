"""What the commands share: how flags are read, how answers and errors are printed. Owns: flag types, exit codes, the
one-line error. Does not: know any command.
"""

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click
from rich.console import Console

from cluster.client import Client
from cluster.config import parse_address, parse_bytes
from cluster.records import AdapterUse
from lorajax.errors import LorajaxError

type Flag = Any
"""What click hands over: a value of the type that its option declares, which no annotation can follow."""

DEFAULT_TARGET = "127.0.0.1:50051"
DTYPES = ("float32", "bfloat16", "float16")
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Parsed[T](click.ParamType[T, str]):
    """A flag read by a function, whose ValueError becomes bad usage that names the flag."""

    def __init__(self, metavar: str, parse: Callable[[str], T]) -> None:
        """Keep the name shown in --help beside the function."""
        self.name = metavar
        self._parse = parse

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """The parsed value; our defaults are written as text too."""
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _address(text: str) -> str:
    parse_address(text)
    return text


def _adapter_use(text: str) -> AdapterUse:
    name, _, weight = text.partition("=")
    with contextlib.suppress(ValueError):  # of float
        if name:
            return AdapterUse(name=name, weight=float(weight or 1))
    raise ValueError(f"{text!r} is not NAME or NAME=WEIGHT, such as pirate or pirate=0.5")


def _named_folder(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ValueError(f"{text!r} is not NAME=DIR, such as pirate=examples/adapters/pirate")
    path = Path(folder).expanduser()  # the shell leaves the ~ of NAME=~/DIR alone
    if not path.is_dir():
        raise ValueError(f"{folder!r} of {text!r} is not a folder; name one with a PEFT adapter")
    return name, str(path)


def _model(text: str) -> str:
    if not os.path.exists(text):
        raise ValueError(f"{text!r} is not there; name a folder or file of this machine: models are not downloaded")
    return os.path.realpath(text)


SIZE = Parsed("SIZE", parse_bytes)
ADDRESS = Parsed("HOST:PORT", _address)
ADAPTER_USE = Parsed("NAME[=WEIGHT]", _adapter_use)
NAMED_FOLDER = Parsed("NAME=DIR", _named_folder)
MODEL = Parsed("PATH", _model)

target_option = click.option(
    "--target",
    type=ADDRESS,
    default=DEFAULT_TARGET,
    show_default=True,
    envvar="LORAJAX_TARGET",
    show_envvar=True,
    help="Where lorajax answers.",
)


@contextlib.contextmanager
def bad_usage() -> Iterator[None]:
    """Turn a record's ValueError, which starts with a field's name, into bad usage that names the flag."""
    try:
        yield
    except ValueError as error:
        field, space, rest = str(error).partition(" ")
        flags = {param.name: param.opts[0] for param in click.get_current_context().command.params}
        raise click.UsageError(flags.get(field, field) + space + rest) from error


def import_on_use(module: str) -> ModuleType:
    """A module that only one command needs: JAX takes seconds that no other should wait for, readline has effects."""
    return importlib.import_module(module)


def call[T](target: str, action: Callable[[Client], Awaitable[T]]) -> T:
    """Run one conversation with `target` and close the connection, also when interrupted."""

    async def converse() -> T:
        async with Client(target) as client:
            return await action(client)

    return asyncio.run(converse())


def console() -> Console:
    """A console that keeps every line whole where nobody sees a terminal, so that output can be piped and searched."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


class Sections(click.Group):
    """The root command: its help groups the commands, and whatever goes wrong ends as one line and an exit code."""

    def __init__(self, *, sections: tuple[tuple[str, tuple[click.Command, ...]], ...], **attributes: Flag) -> None:
        """Take the commands under their headings, in the order of --help."""
        commands = [command for _, group in sections for command in group]
        click.Group.__init__(self, commands=commands, **attributes)
        self._sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Command names in the order of their sections."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One block per section."""
        for heading, commands in self._sections:
            with formatter.section(heading):
                formatter.write_dl([(str(command.name), command.get_short_help_str(90)) for command in commands])

    def main(self, *args: Flag, **kwargs: Flag) -> NoReturn:
        """Run, and exit 0 when done, 1 on an error, 2 on bad usage, 130 when interrupted, or as the command says."""
        try:
            code: Flag = click.Group.main(self, *args, **kwargs | {"standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = EXIT_USAGE
        except click.ClickException as error:
            code = _report(error.format_message(), error, error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            code = EXIT_INTERRUPTED
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_FAILED
        except (LorajaxError, ValueError, OSError) as error:
            code = _report(str(error) or type(error).__name__, error, EXIT_FAILED)
        raise SystemExit(code or 0)


def _report(message: str, error: Exception, code: int) -> int:
    """Say on stderr what went wrong, in one line."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"  (see: {context.command_path} --help)" if context else ""
    click.echo(f"error: {' '.join(message.split())}{hint}", err=True)
    return code
