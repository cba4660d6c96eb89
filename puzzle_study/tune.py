"""``python -m puzzle_study.tune``: run a study from its file to its report."""

from __future__ import annotations

from pathlib import Path

import click

from puzzle_study.cli import command
from puzzle_study.errors import UserError

EXAMPLE = """\b
Examples:
  puzzle-study tune digits
  puzzle-study tune parts.yaml --dry-run
  puzzle-study tune mnist --quick --set data.root=data/mnist
  puzzle-study tune digits --address auto --set storage=/shared/results
"""


@command(epilog=EXAMPLE)
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Apply the study's own `quick` section, for a run of a few minutes.")
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting by its dotted name; repeatable."
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Parent folder of the study's own folder.  [default: `storage` if it is a folder, otherwise results]",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted study; finished trials do not run again.")
@click.option(
    "--address",
    metavar="auto|HOST:PORT",
    help="Join a running Ray cluster instead of starting Ray on this machine; auto: this machine's own cluster.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the images, the trainings and an estimate of time and disk, and start nothing; --verbose also prints "
    "every setting.",
)
@click.option("--quiet", is_flag=True, help="Print only errors and the report's location.")
@click.option("--verbose", is_flag=True, help="Also print the trials' logs and Ray's messages.")
def main(
    study: Path,
    quick: bool,
    assignments: tuple[str, ...],
    results: Path | None,
    resume: bool,
    address: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Run STUDY, a YAML file or a study of this package (`puzzle-study list`): search, train, attack, report.

    If the study is finished, this is said and nothing runs. Exit codes: 0 done, 1 trials failed, 2 bad input or
    failing setup (including an unwritable results folder or a full disk), 130 or 143 interrupted.
    """
    from rich.console import Console

    from puzzle_study.config import read, shipped

    if quiet and verbose:
        raise UserError("--quiet and --verbose contradict each other; remove one of them")
    file = read.load(shipped.find(study), quick=quick, assignments=assignments)
    from puzzle_study.study.storage import results_folder

    folder = results_folder(results, file.study.storage)
    if dry_run:
        from puzzle_study.study import forecast

        if verbose:
            click.echo(read.dump(file.study))
        for line in forecast.describe(file, folder):
            click.echo(f"# {line}" if verbose else line)
        return 0
    from puzzle_study.study.engine import run_study

    return run_study(file, folder, resume=resume, console=Console(quiet=quiet), address=address, verbose=verbose)


if __name__ == "__main__":
    main()
