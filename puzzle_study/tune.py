"""``python -m puzzle_study.tune``: run a study from its file to its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from puzzle_study.commands import command

if TYPE_CHECKING:
    from puzzle_study.studyfile import StudyFile

EXAMPLE = """\b
Examples:
  python -m puzzle_study.tune studies/digits.yaml
  python -m puzzle_study.tune studies/mnist.yaml --quick --set data.root=data/mnist
  python -m puzzle_study.tune studies/cifar10.yaml --dry-run
"""


@command(epilog=EXAMPLE)
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Apply the file's own quick: section, minutes on two cores.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting, by dotted name.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder in which the study's own folder goes.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted study; no finished trial is run again.")
@click.option("--dry-run", is_flag=True, help="Print the resolved study and what would be trained; start nothing.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors and where the report is.")
def main(
    study: Path, quick: bool, assignments: tuple[str, ...], results: Path, resume: bool, dry_run: bool, quiet: bool
) -> int:
    """Run STUDY, a YAML file: search, train, attack, report.

    A finished study does nothing but say so. Exit codes: 0 done, 1 trials failed, 2 bad input,
    130 or 143 interrupted.
    """
    from rich.console import Console

    from puzzle_study import studyfile

    file = studyfile.load(study, quick=quick, assignments=assignments)
    if dry_run:
        click.echo(_dry_run(file, results))
        return 0
    from puzzle_study.study.engine import run_study

    return run_study(file, results, resume=resume, console=Console(quiet=quiet))


def _dry_run(file: StudyFile, results: Path) -> str:
    """Describe what a study would do: its resolved settings, its size, and axes that cannot matter."""
    from puzzle_study import datasets, studyfile
    from puzzle_study.errors import UserError
    from puzzle_study.results import Results
    from puzzle_study.study import space
    from puzzle_study.study.plan import Plan

    tasks = datasets.task_specs(file.study.data)
    try:
        data = f"data are there, fingerprint {datasets.fingerprint(file.study.data)}"
    except UserError as error:
        data = f"data are not there yet: {error}"
    plan = Plan(file, tasks, "", Results(results / file.study.name))
    normal = ", ".join(dict.fromkeys(task.normal_class for task in tasks))
    trials = len(plan.references) + plan.wanted * len(tasks) * len(file.study.seeds)
    lines = [
        studyfile.dump(file.study),
        f"# {trials} trials: {plan.wanted} configurations × {len(tasks)} tasks × {len(file.study.seeds)} seeds, "
        f"and {len(plan.references)} references",
        f"# dataset {file.study.data.name}, normal: {normal}",
        f"# a trial trains {file.study.train.epochs} epochs at most, base {file.study.model.base_channels}, "
        f"batch {file.study.train.batch_size}",
        f"# {data}",
        f"# results would go to {results / file.study.name}",
    ]
    if file.study.search is not None:
        lines += [
            f"# search axis {name} cannot matter: {why}"
            for name, why in space.inert_axes(file, file.study.search).items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
