"""Which criterion chooses best without labelled anomalies? Every one on the same scores, with nothing trained again.

    python -m puzzle_study.tune benchmarks/studies/selection/mnist.yaml       (and the other files of that folder)
    python -m benchmarks.selection results/mnist results/cifar10 ... --half design --output analysis/data

Tasks are split in two halves by a rule that was written down before their results were looked at. Of MNIST, CIFAR-10
and digits the classes 0, 1, 2, 3 and 8 are for design, 4, 5, 6, 7 and 9 for confirmation. Brain MRI and magnetic
tiles, which earlier measurements had looked at, are for design, and so is MNIST 4, on which the settings were timed.
The default criterion was chosen on the first half; the second was read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from puzzle_study.config import read
from puzzle_study.criteria.base import Candidate
from puzzle_study.criteria.expecting import kind_weights
from puzzle_study.criteria.gap import selection_gaps
from puzzle_study.criteria.kinds.registry import KINDS
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.datasets import TaskSpec
from puzzle_study.results import Results
from puzzle_study.statistics.intervals import mean_interval
from puzzle_study.study.choosing import Candidates
from puzzle_study.study.engine import make_plan

DESIGN = frozenset({"0", "1", "2", "3", "8"}) | {"airplane", "automobile", "bird", "cat", "ship"}
SPLIT = ("mnist", "cifar10", "digits")
SEEN = ("mnist", "4")
AUROCS = ["auroc", "default", "random", "median", "oracle"]
SPREAD = 0.02
"""AUROC by which the aggregations of a training must differ for a choice among them to count."""


def half_of(task: TaskSpec) -> str:
    """Return ``design`` or ``confirm``."""
    name = (task.dataset, task.normal_class)
    return "design" if task.dataset not in SPLIT or task.normal_class in DESIGN or name == SEEN else "confirm"


def ways() -> dict[str, tuple[str, Mapping[str, float]]]:
    """Return each way to choose: a criterion and the weights of the kinds."""
    found: dict[str, tuple[str, Mapping[str, float]]] = {name: (name, kind_weights()) for name in CRITERIA}
    for expected in ("defects", "other_objects"):
        found[f"pseudo_anomalies, expect {expected}"] = "pseudo_anomalies", kind_weights(expected)
    return found | {f"{kind} alone": ("pseudo_anomalies", {kind: 1.0}) for kind in KINDS}


def measured(task: TaskSpec, candidates: list[Candidate]) -> Iterator[dict[str, Any]]:
    """Yield what each way would have chosen on a task, among all candidates and among those of Puzzle-AE."""
    own = [one for one in candidates if one.detector == "puzzle_ae"]
    spread = {one.configuration: np.ptp([o.auroc for o in own if o.configuration == one.configuration]) for one in own}
    apart = [one for one in own if spread[one.configuration] >= SPREAD]
    about = {"half": half_of(task), "dataset": task.dataset, "normal_class": task.normal_class}
    scopes = {
        "all": (candidates, ("everything", "detector")),
        "puzzle_ae": (own, ("everything", "settings", "aggregation")),
        "puzzle_ae, aggregations apart": (apart, ("aggregation",)),
    }
    for among, (those, wanted) in scopes.items():
        for way, (criterion, weights) in ways().items() if those else ():
            for gap in selection_gaps({task: those}, weights, per_task=True, names=[criterion]):
                if gap.scope in wanted:
                    yield about | {
                        "among": among,
                        "scope": gap.scope,
                        "criterion": way,
                        "chosen": ";".join(gap.chosen),
                        "auroc": gap.auroc.value,
                        "default": gap.default,
                        "random": gap.random,
                        "median": gap.median,
                        "oracle": gap.oracle,
                        "correlation": gap.correlation,
                    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return means over tasks: AUROC lost to the oracle with its interval, and the share of default to oracle."""
    found = []
    parts = [("all sets", rows), *rows.groupby("dataset", sort=False)]
    for dataset, part in parts:
        for (among, scope, criterion), group in part.groupby(["among", "scope", "criterion"], sort=False):
            lost = mean_interval((group["oracle"] - group["auroc"]).to_numpy(), range(len(group)))
            possible = float((group["oracle"] - group["default"]).mean())
            closed = float((group["auroc"] - group["default"]).mean()) / possible if possible > 0 else np.nan
            found.append(
                {"dataset": dataset, "among": among, "scope": scope, "criterion": criterion, "tasks": len(group)}
                | {name: float(group[name].mean()) for name in AUROCS}
                | {"lost": lost.value, "lost_low": lost.low, "lost_high": lost.high, "share": closed}
                | {"correlation": float(group["correlation"].mean())}
            )
    return pd.DataFrame(found)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--half", type=click.Choice(["design", "confirm"]), required=True)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the two tables.")
def main(folders: tuple[Path, ...], half: str, output: Path | None) -> None:
    """Compare criteria on finished studies. Example: python -m benchmarks.selection results/mnist --half design"""
    rows: list[dict[str, Any]] = []
    for folder in folders:
        results = Results(folder)
        plan = make_plan(read.load(results.study_file), results)
        plan.next()  # takes in the records
        candidates = Candidates(plan)
        for task in (task for task in candidates if half_of(task) == half):
            rows += measured(task, candidates[task])
    tasks = pd.DataFrame(rows)
    table = summary(tasks)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        tasks.to_csv(output / f"selection_{half}_tasks.csv", index=False, float_format="%.4f")
        table.to_csv(output / f"selection_{half}.csv", index=False, float_format="%.4f")
    shown = 100 * table[[*AUROCS, "lost", "lost_low", "lost_high"]]
    text = pd.concat([table[["dataset", "among", "scope", "criterion", "tasks"]], shown.round(1)], axis=1)
    text["share"], text["correlation"] = table["share"].round(2), table["correlation"].round(2)
    click.echo(text.to_string(index=False))


if __name__ == "__main__":
    main()
