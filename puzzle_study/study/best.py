"""Writes best/: the winner's detectors, one folder for each, with the winning reading."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from puzzle_study.detectors.files import DESCRIPTION, WEIGHTS
from puzzle_study.errors import UserError
from puzzle_study.io import replace_folder
from puzzle_study.results import MODEL_CARD, Results
from puzzle_study.study.plan import Best, Plan
from puzzle_study.trials.spec import TrialSpec


def files(plan: Plan, trials: Sequence[TrialSpec], results: Results) -> list[Path]:
    """Return the files that are in best/ at the end."""
    return [results.best / name / file for name in names(plan, trials) for file in (WEIGHTS, DESCRIPTION, MODEL_CARD)]


def write(plan: Plan, winner: Best, results: Results) -> None:
    """Copy the winner's detectors to best/<name>, with the winning reading; UserError if one is missing or damaged."""
    planned, reading, _ = winner
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "best"
        for spec, name in zip(planned.trials, names(plan, planned.trials), strict=True):
            target = staged / name
            path = target / DESCRIPTION
            try:
                shutil.copytree(results.detector(spec.key), target)
                content = json.loads(path.read_text(encoding="utf-8"))
            except (FileNotFoundError, ValueError) as error:
                raise UserError(
                    f"{results.detector(spec.key)} is missing or damaged; restore it, or delete "
                    f"records/{spec.key}.json and train it again with --resume"
                ) from error
            content["reading"] = {"error": reading.error, "aggregation": reading.aggregation}
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        replace_folder(staged, results.best)


def names(plan: Plan, trials: Sequence[TrialSpec]) -> list[str]:
    """Return each trial's folder name below best/: its class, with repeat and seed if there are several."""
    classes = _class_names(spec.task.normal_class for spec in trials)
    repeats, seeds = len({task.repeat for task in plan.tasks}) > 1, len(plan.study.seeds) > 1
    return [
        classes[spec.task.normal_class]
        + (f"-repeat{spec.task.repeat}" if repeats else "")
        + (f"-seed{spec.seed}" if seeds else "")
        for spec in trials
    ]


def _class_names(classes: Iterable[str]) -> dict[str, str]:
    """Return a unique name for each class that is valid on any file system."""
    plain = {
        name: "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name) for name in classes
    }
    found: dict[str, str] = {}
    # Classes that keep their name come first, so that no other class takes it.
    for name in sorted(plain, key=lambda name: plain[name] != name):
        wanted = itertools.chain([plain[name]], (f"{plain[name]}-{number}" for number in itertools.count(2)))
        found[name] = next(free for free in wanted if free not in found.values())
    return found
