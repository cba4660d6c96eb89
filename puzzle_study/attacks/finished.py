"""Attacks on detectors that lie in folders, each on the test images of its own task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle_study import config, datasets
from puzzle_study.attacks import table
from puzzle_study.attacks.convergence import check_convergence, to_check
from puzzle_study.attacks.running import run_attacks
from puzzle_study.attacks.specs import attack_specs, fitting, strongest
from puzzle_study.datasets import Task
from puzzle_study.datasets.subset import chosen_images
from puzzle_study.detectors.base import Shape
from puzzle_study.detectors.devices import default_device
from puzzle_study.detectors.files import DESCRIPTION, load_detector, read_description
from puzzle_study.errors import UserError
from puzzle_study.inference.locating import BEST, detectors_in


def find_detectors(folder: Path) -> tuple[Path, list[Path]]:
    """Return the folder that a table goes to and the detectors that are meant.

    Args:
        folder: a study's results, its best/, one detector or a folder of detectors.

    Raises:
        UserError: there is no detector, or a folder that may not be read.
    """
    for home in (folder / BEST, folder):
        if found := detectors_in(home):
            return home, found
    raise UserError(f"{folder} holds no detector; give results/NAME of a finished study or results/NAME/best/CLASS")


@dataclass(frozen=True)
class Attacked:
    """Rows of attacks.csv about one detector, and of smallest_epsilon.csv if it was asked for."""

    rows: list[dict[str, Any]]
    smallest: list[dict[str, Any]]


def attack_finished(
    folder: Path, attacks: config.Attacks, *, data_root: Path | None, progress: Callable[[str], object]
) -> Attacked:
    """Attack one detector on its own test images.

    Args:
        folder: the detector.
        attacks: what is attacked and how; what stands there about configurations does not apply.
        data_root: where the original images are; None: where they were in training.
        progress: called with a line that says how far it is.

    Raises:
        UserError: detector or images are missing, damaged or do not belong together, or no attack fits.
    """
    name = folder.resolve().name
    content = read_description(folder)
    detector = load_detector(folder, device=default_device())
    spec, task = _own_task(folder, content, data_root)
    if Shape(*task.test.shape[1:]) != detector.shape:
        raise UserError(f"{folder / DESCRIPTION} names another shape than that of its images; train the detector again")
    # What does not fit this detector is left out; if nothing fits, the first attack says why.
    specs = fitting(attacks, detector.traits) or attack_specs(attacks)[:1]
    images, labels = chosen_images(task, attacks.max_images, balanced=attacks.balanced)
    count = itertools.count()

    def advance() -> None:
        progress(f"{name}: {next(count)} of {len(specs)} attacks on {len(images)} images")

    advance()
    validation = detector.scores(detector.validation_NK)
    results = run_attacks(detector, images, labels, validation, specs, progress=advance, keep=0)
    about = {
        "detector": name,
        "trial": str(content.get("trial", "")),
        "dataset": spec.dataset,
        "normal_class": spec.normal_class,
        "seed": content.get("seed", ""),
    }
    progress(f"{name}: holding the attacks to stronger runs")
    checked = {
        one.spec: one.columns()
        for one in check_convergence(detector, images, labels, validation, to_check(specs), count=attacks.convergence)
    }
    rows = []
    for one in results:
        row = table.row(one, labels, detector.reading, validation)
        rows.append(about | (table.checked(row, checked[one.spec]) if one.spec in checked else row))
    smallest = []
    if attacks.smallest and (aimed := strongest(attacks, detector.traits)) is not None:
        progress(f"{name}: looking for the smallest ε")
        smallest = table.smallest_rows(detector, images, labels, aimed)
    return Attacked(rows, [about | row for row in smallest])


def _own_task(folder: Path, content: Mapping[str, Any], data_root: Path | None) -> tuple[datasets.TaskSpec, Task]:
    """Return the task that a detector was trained for."""
    try:
        data = config.Settings.from_json(content["settings"]).data
        spec = datasets.TaskSpec(**content["task"])
        trained_on = content["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / DESCRIPTION} does not say which images it was trained for; train the detector again"
        ) from error
    if data_root is not None:
        data = data.model_copy(update={"root": str(data_root)})
    # Most splits are drawn from all images: with others among them, trained images would be attacked as test images.
    if datasets.fingerprint(data) != trained_on:
        raise UserError(
            f"{folder} was trained on other images than those that are in data.root now; restore them, or name their "
            "folder with --data-root"
        )
    return spec, datasets.load_task(data, spec)
