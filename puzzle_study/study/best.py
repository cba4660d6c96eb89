"""Writes best/: the winners' detectors, one folder for each task and seed, with the winning reading."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from puzzle_study.config import Reading
from puzzle_study.criteria.ensemble import knots
from puzzle_study.detectors.files import DESCRIPTION, WEIGHTS, load_detector, read_description, save
from puzzle_study.errors import UserError
from puzzle_study.io import replace_folder
from puzzle_study.results import MODEL_CARD, Results
from puzzle_study.study.choosing import ensembles
from puzzle_study.study.plan import Plan
from puzzle_study.study.planned import Best
from puzzle_study.trials.spec import TrialSpec


def files(plan: Plan, results: Results) -> list[Path]:
    """Return the files that are in best/ at the end."""
    trials = [spec for spec, _ in winning(plan)]
    return [results.best / name / file for name in names(plan, trials) for file in (WEIGHTS, DESCRIPTION, MODEL_CARD)]


def winning(plan: Plan) -> list[tuple[TrialSpec, Reading]]:
    """Return the trials of each task's winner, with the reading that won."""
    return [
        (spec, reading)
        for task, (planned, reading, _) in zip(plan.tasks, plan.winners(), strict=False)
        for spec in planned.trials
        if spec.task == task
    ]


def write(plan: Plan, results: Results) -> None:
    """Copy the winners' detectors to best/<name>, with the winning reading.

    Raises:
        UserError: a detector is missing or damaged.
    """
    found, blends = winning(plan), ensembles(plan)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "best"
        for (spec, reading), name in zip(found, names(plan, [spec for spec, _ in found]), strict=True):
            target = staged / name
            if blends:
                _write_ensemble(plan, blends[plan.tasks.index(spec.task)], spec, results, target)
                continue
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


def _write_ensemble(plan: Plan, used: Sequence[Best], first: TrialSpec, results: Results, target: Path) -> None:
    """Write the ensemble of configurations for the task and seed of a trial, without a look at any image."""
    import numpy as np
    import torch

    from puzzle_study.detectors.ensemble import Ensemble
    from puzzle_study.detectors.scoring import matrix_scores

    members, knot_MQ, keys = [], [], []
    for planned, reading, _ in used:
        (spec,) = [one for one in planned.trials if (one.task, one.seed) == (first.task, first.seed)]
        member = load_detector(results.detector(spec.key), device=torch.device("cpu")).read_by(reading)
        score_N = matrix_scores(results.errors(spec.key), reading)
        members.append(member)
        knot_MQ.append(knots(score_N["validation"], score_N["pseudo"]))
        keys.append(spec.key)
    target.mkdir(parents=True)
    about = read_description(results.detector(keys[0]))
    save(Ensemble.of(members, torch.from_numpy(np.array(knot_MQ))), target, about | {"members": keys})


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
