"""``python -m puzzle_study.report``: rebuild the report of a finished study, or compare several."""

from __future__ import annotations

from pathlib import Path

import click

from puzzle_study.cli import command
from puzzle_study.errors import UserError

EXAMPLE = """\b
Examples:
  puzzle-study report results/digits
  puzzle-study report results/digits results/mnist --output comparison
"""


@command(epilog=EXAMPLE)
@click.argument("folders", nargs=-1, required=True, metavar="RESULTS...", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the report. [default: RESULTS/report]"
)
def main(folders: tuple[Path, ...], output: Path | None) -> int:
    """Rebuild the report of the study in the folder RESULTS, or compare the studies of several folders.

    Exit codes: 0 done, 2 bad input.
    """
    from puzzle_study.datasets.records import reading
    from puzzle_study.reporting import build_report
    from puzzle_study.results import Results

    for folder in folders:
        with reading(folder):
            if not folder.is_dir():
                raise UserError(f"{folder} is not a results folder; give one such as results/digits")
    first, *others = [Results(folder) for folder in folders]
    click.echo(f"report: {build_report(first, others=others, output=output)}")
    return 0


if __name__ == "__main__":
    main()
