"""``python -m benchmarks.augmentation STUDY``: what ``data.augment`` and a recalibration buy at the threshold.

Trains each detector of a study file twice, without and with the file's ``data.augment``, and scores the test images as
they are, shifted by a pixel, brighter by 0.2 and under half the light. The threshold for 5 % false alarms is that of
the validation images, or is set anew by 20 normal test images (half of them, if there are fewer than 40) under the same
change. These are then left out of the rates, which are means over 20 draws. A seed is that of the training and of the
split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch

from puzzle_study import config, datasets
from puzzle_study.config import read
from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.detectors.base import Detector, to_float
from puzzle_study.detectors.files import load_detector
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE, Calibration
from puzzle_study.results import Results
from puzzle_study.statistics import metrics
from puzzle_study.trials.run import run
from puzzle_study.trials.spec import TrialSpec

CPU = torch.device("cpu")
CHANGES = {
    "none": ("shift", 0.0),
    "shift by 1 pixel": ("shift", 1.0),
    "brightness + 0.2": ("brighter", 0.2),
    "lamp × 0.5": ("dim_lamp", 0.5),
}
NEW, DRAWS = 20, 20
RATES = ("fpr", "tpr", "fpr_new", "tpr_new")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("study", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--set", "assignments", multiple=True, help="A setting of the study, NAME=VALUE.")
def main(study: Path, assignments: tuple[str, ...]) -> None:
    """Print the table as Markdown.

    Example: python -m benchmarks.augmentation benchmarks/studies/augmentation.yaml --set data.root=DIR
    """
    torch.set_num_threads(1)
    file = read.load(study, assignments=assignments)
    click.echo("| detector | change | AUROC | FPR / TPR | recalibrated | augmented: AUROC | FPR / TPR | recalibrated |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for detector in file.study.detectors:
        table = pd.DataFrame(measured(file.study, detector)).groupby(["change", "augment"], sort=False).mean()
        for change, part in table.groupby(level=0, sort=False):
            click.echo(_line([detector, str(change)], part))


def _line(cells: list[str], part: pd.DataFrame) -> str:
    """Return a row of the table, behind its first cells, of what was trained without and with augmentation."""
    for _, row in part.iterrows():
        fpr, tpr, fpr_new, tpr_new = (f"{100 * row[name]:.0f}" for name in RATES)
        cells += [f"{100 * row['auroc']:.1f}", f"{fpr} / {tpr}", f"{fpr_new} / {tpr_new}"]
    return "| " + " | ".join(cells) + " |"


def measured(study: config.Study, name: str) -> Iterator[dict[str, object]]:
    """Train a detector and yield a row for each task and seed, without and with augmentation, and change."""
    for seed in study.seeds:
        for task in datasets.task_specs(study.data):
            for augment in ((), study.data.augment):
                detector, images = trained(study.settings(name), task, seed, augment)
                for change, (kind, value) in CHANGES.items():
                    yield {"change": change, "augment": bool(augment), **rates(detector, images, kind, value, seed)}
            click.echo(f"{name}, {task.normal_class}, seed {seed}", err=True)


def trained(settings: config.Settings, task: TaskSpec, seed: int, augment: tuple[str, ...]) -> tuple[Detector, Task]:
    """Run a trial and return its detector with its images."""
    data = settings.data.model_copy(update={"augment": augment, "split_seed": seed})
    spec = TrialSpec(settings.model_copy(update={"data": data}), task, seed, "0" * 16)
    with tempfile.TemporaryDirectory() as folder:
        record = run(spec, Results(Path(folder)), device=CPU)
        if not record.finished:
            raise click.ClickException(record.error)
        return load_detector(Results(Path(folder)).detector(spec.key), device=CPU), datasets.load_task(data, task)


def rates(detector: Detector, task: Task, kind: str, value: float, seed: int) -> dict[str, float]:
    """Return AUROC, and both rates at the old threshold and at that of new normal images."""
    generators = [torch.Generator().manual_seed(number) for number in range(len(task.test))]
    x_NCHW = (
        CORRUPTIONS[kind].apply(to_float(task.test), value, generators).clamp(0, 1) if value else to_float(task.test)
    )
    images_NCHW, labels_N = x_NCHW.mul(255).round().byte(), task.labels.numpy()

    error_NK, old_VK = detector.error_matrix(images_NCHW), detector.validation_NK

    def at_threshold(counted_N: np.ndarray) -> tuple[float, float, float]:
        score_N = detector.scores(error_NK).double().numpy()
        flagged_N = score_N > Calibration.of(detector).threshold(FALSE_POSITIVE_RATE)
        fpr, tpr = (float(flagged_N[side & counted_N].mean()) for side in (~labels_N, labels_N))
        return fpr, tpr, metrics.auroc(score_N, labels_N)

    fpr, tpr, auroc = at_threshold(np.ones(len(labels_N), dtype=bool))
    rng, drawn, normal_n = np.random.default_rng(seed), [], np.flatnonzero(~labels_N)
    for _ in range(DRAWS):
        chosen = rng.choice(normal_n, min(NEW, len(normal_n) // 2), replace=False)
        # What `recalibrate` does with detectors that have no statistics of their own, without scoring again.
        detector.validation_NK = error_NK[torch.from_numpy(chosen)]
        drawn.append(at_threshold(~np.isin(np.arange(len(labels_N)), chosen))[:2])
    detector.validation_NK = old_VK
    fpr_new, tpr_new = np.mean(drawn, axis=0)
    return {"auroc": auroc, "fpr": fpr, "tpr": tpr, "fpr_new": float(fpr_new), "tpr_new": float(tpr_new)}


if __name__ == "__main__":
    main()
