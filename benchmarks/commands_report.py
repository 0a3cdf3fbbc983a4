"""Commands that read results: `report` and `compare`. Owns: their flags. Does not: measure, compute, draw."""

import os
import tempfile
from os import PathLike
from pathlib import Path

import click

from benchmarks import report
from benchmarks.outcomes.drawn import pictures
from lorajax.cli_types import import_on_use

_ROOT = Path(__file__).resolve().parent.parent
RESULTS = _ROOT / "benchmarks" / "results"


class _Folder(click.Path):
    """A folder for results, which is made where it is missing."""

    def convert(self, value: str | PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Raises: bad usage where nothing can be written there: better now than after what is measured."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            self.fail(f"{path} cannot be written: {error.strerror}; name another folder", param, ctx)
        return path


FOLDER = _Folder(file_okay=False, path_type=Path)


@click.command("report")
@click.argument("found", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="[FILE]...")
@click.option("--out", type=FOLDER, help="Folder of pages and pictures.  [default: beside each file]")
@click.option("--readme", is_flag=True, help="Write the tables between the markers of README.md instead of printing.")
@click.option("--results", type=click.Path(exists=True, path_type=Path), default=RESULTS, help="Folder of JSON files.")
def report_command(*, found: tuple[Path, ...], out: Path | None, readme: bool, results: Path) -> None:
    """Pages and pictures of the files named; without any, the tables out of all results."""
    for path in found:
        for written in import_on_use("benchmarks.outcomes.pages").write(path, out or path.parent, pictures()):
            print(written)
    if readme:
        report.write_readme(_ROOT / "README.md", results)
    elif not found:
        print(report.sections(results))


@click.command()
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def compare(*, before: Path, after: Path) -> None:
    """What changed from the runs of one JSON file to those of another; refuses to compare unlike runs."""
    files = import_on_use("benchmarks.outcomes.files")
    print(import_on_use("benchmarks.outcomes.compare").table(files.read(before), files.read(after)))
