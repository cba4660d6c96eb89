"""``python -m puzzle_study.report``: write the report of a finished study, or compare several."""

from __future__ import annotations

from pathlib import Path

import click

from puzzle_study.errors import UserError


@click.command(name="report")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the report. [default: FIRST/report]"
)
def main(folders: tuple[Path, ...], output: Path | None) -> None:
    """Write the report of a study; further FOLDERS, such as results/OTHER, are compared with the first."""
    from puzzle_study.reporting import build_report
    from puzzle_study.results import Results

    try:
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder of results; give one such as results/digits")
        first, *others = [Results(folder) for folder in folders]
        page = build_report(first, others=others, output=output)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(2) from error
    click.echo(f"report: {page}")


if __name__ == "__main__":
    main()
