"""``python -m puzzle_study.data``: list, fetch and check image sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from puzzle_study.cli import command
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.errors import UserError, cut, suggestion

if TYPE_CHECKING:
    from puzzle_study.datasets.records import Unit

EXAMPLE = """\b
Examples:
  puzzle-study data list
  puzzle-study data fetch mnist
  puzzle-study data check mvtec --root /disks/images
"""
ROOT = click.option(
    "--root", default="data", show_default=True, metavar="DIR", help="Folder with one folder for each set."
)


def _known(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value not in DATASETS:
        raise click.BadParameter(f"{cut(repr(value))} is not one of {', '.join(DATASETS)}{suggestion(value, DATASETS)}")
    return value


NAME = click.argument("name", callback=_known)


@click.group(epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """List, fetch and check data sets."""


@command(epilog=EXAMPLE)
@ROOT
def list_command(root: str) -> None:
    """List the data sets: which are here, and how to get the others."""
    from puzzle_study.datasets import cache, finding

    own: Mapping[str, Unit] | None = None
    for name, info in DATASETS.items():
        try:
            found = own if info.of_the_user else finding.find(name, root)
            if found and finding.is_other_set(name, found):
                own, found = found, None
            missing = info.by_hand if info.of_the_user else f"not there: {finding.remedy(name, root)}"
            state = f"there: {finding.described(found)}" if found else missing
        except UserError as error:
            state = f"cannot be used: {error}"
        click.echo(f"{click.style(name, bold=True)}: {info.title}\n  {state}")
        if not info.of_the_user:
            click.echo(f"  source: {info.source}; licence: {info.licence}")
    if size := cache.size_in_bytes():
        click.echo(f"Decoded images take {size / 1e6:,.0f} MB in {cache.folder()}; you may delete them at any time.")


@command(epilog=EXAMPLE)
@NAME
@ROOT
def fetch(name: str, root: str) -> None:
    """Download a set into DIR/NAME; an interrupted download continues."""
    from puzzle_study.datasets import download, finding
    from puzzle_study.datasets.records import attempt

    found = attempt(lambda: finding.find(name, root))
    # An incomplete set, an error here, is completed below.
    if DATASETS[name].downloads and found and not isinstance(found, UserError):
        click.echo(f"{name} is there already: {finding.described(found)}")
        return
    with _progress() as progress:
        download.fetch(name, root, progress)
    _check(name, root)


@command(epilog=EXAMPLE)
@NAME
@ROOT
def check(name: str, root: str) -> None:
    """Read a set, count its images and name each damaged file."""
    _check(name, root)


main.add_command(list_command, "list")
main.add_command(fetch)
main.add_command(check)


def _check(name: str, root: str) -> None:
    from puzzle_study.datasets import checking

    report = checking.check(name, root)
    click.echo(f"{name}: {checking.in_words(report.counts)} in {report.folder}")
    for note in report.notes:
        click.echo(f"note: {note}")
    for sentence in report.damaged:
        click.echo(f"damaged: {sentence}")
    if report.damaged:
        files = "1 file is" if len(report.damaged) == 1 else f"{len(report.damaged)} files are"
        raise UserError(f"{files} damaged in {report.folder}; replace the files named above and check again")
    click.echo("every file can be read")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show bars on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(file: str, there: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file)
            bars.update(tasks[file], completed=there, total=total)

        yield show


if __name__ == "__main__":
    main(prog_name="python -m puzzle_study.data")
