"""``puzzle-study init`` and ``puzzle-study list``: the study files that come with the package."""

from __future__ import annotations

from pathlib import Path

import click

from puzzle_study.cli import command
from puzzle_study.errors import UserError

INIT_EXAMPLE = """\b
Examples:
  puzzle-study init folder
  puzzle-study init detectors_folder parts.yaml
  puzzle-study init paper/table02_mvtec studies/
"""
LIST_EXAMPLE = """\b
Example:
  puzzle-study list
"""


@command(epilog=INIT_EXAMPLE)
@click.argument("name")
@click.argument("path", required=False, type=click.Path(path_type=Path))
def main(name: str, path: Path | None) -> None:
    """Write the study NAME of this package to PATH, for you to edit and run.

    Its comments say what it does and where its images go. PATH is a file or an existing folder; the default is
    NAME.yaml in the current folder. An existing file is not replaced. Exit codes: 0 done, 2 bad input.
    """
    from puzzle_study.config import shipped
    from puzzle_study.io import write_text

    target = path or Path()
    if target.is_dir():
        target /= shipped.file_of(name).name
    if target.exists():
        raise UserError(f"{target} is there already; give another PATH, or delete it")
    text = shipped.copied(name, target)
    try:
        write_text(target, text)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}); give another PATH") from error
    click.echo(f"{target}: edit it, then run: puzzle-study tune {target}")


@command(epilog=LIST_EXAMPLE)
def listing() -> None:
    """List the studies of this package: `puzzle-study tune NAME` runs one, `init NAME` writes its file."""
    from puzzle_study.config import shipped

    names = shipped.names()
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:{width}}  {shipped.title(name)}")


if __name__ == "__main__":
    main(prog_name="python -m puzzle_study.init")
