"""The way to pictures. Owns: importing them on use. Does not: draw."""

from types import ModuleType

import click

from lorajax.cli_types import import_on_use


def pictures() -> ModuleType:
    """The module that draws. Raises: click.ClickException where matplotlib is not installed."""
    try:
        return import_on_use("benchmarks.outcomes.pictures")
    except ModuleNotFoundError as error:
        raise click.ClickException(f"pictures need {error.name}; `pip install 'lorajax[bench]'` installs it") from error
