"""``python -m benchmarks.peers``: our detectors beside those that people use, and Puzzle-AE's views beside GT's.

Ours and PyOD's are fitted and score in turn on the same images, in one process with one thread. PyOD's have its own
defaults and see each image as a row of numbers; ours have `preset: fast`, if they have presets. Our fit includes the
calibration, PyOD's the scores of the training images. Seconds are the processor's, which other processes disturb
little: with one thread they are what a clock shows on a quiet machine. A ratio above 1 says that ours is faster.
"""

from __future__ import annotations

import dataclasses
import importlib
import statistics
import time
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from puzzle_study import config
from puzzle_study.config import layers
from puzzle_study.datasets import Task, load_task, task_specs
from puzzle_study.detectors.base import Context, Detector, Run, Shape
from puzzle_study.detectors.devices import claim_cpus
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.statistics import metrics

Scores = npt.NDArray[np.float64]
PYOD = {
    "dsvdd": ("deep_svdd", "DeepSVDD"),
    "nearest_neighbour": ("knn", "KNN"),
    "pca": ("pca", "PCA"),
}
"""Module and class of PyOD, by the name of our detector."""
WARM_UP = 32
"""Images of a first fit, which is not measured."""


@dataclasses.dataclass
class Measured:
    """What several runs of one detector took and gave."""

    fit: list[float] = dataclasses.field(default_factory=list)
    score: list[float] = dataclasses.field(default_factory=list)
    auroc: list[float] = dataclasses.field(default_factory=list)
    distinct: int = 0

    def add(self, task: Task, fit: float, score: float, scores: Scores) -> None:
        """Take in one more run."""
        self.fit.append(fit)
        self.score.append(score)
        self.auroc.append(100 * metrics.auroc(scores, task.labels.numpy()))
        self.distinct = len(np.unique(scores))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dataset", default="mnist", show_default=True, help="Data set.")
@click.option("--root", default="data", show_default=True, help="Folder with its files.")
@click.option("--normal-class", default=8, show_default=True, help="Number of the normal class.")
@click.option("--images", default=2000, show_default=True, help="Normal images, and as many test images.")
@click.option("--runs", default=3, show_default=True, help="How often each is fitted, with seeds 0, 1, …")
@click.option("--viewed", default=16, show_default=True, help="Images that Puzzle-AE and GT score.")
def main(dataset: str, root: str, normal_class: int, images: int, runs: int, viewed: int) -> None:
    """Measure ours beside PyOD's and GT. Example: python -m benchmarks.peers --root data --images 1000"""
    claim_cpus(1)
    pyod = _imported("version").__version__
    data = config.Data(
        name=dataset,
        root=root,
        normal_classes=(normal_class,),
        max_train_images=images,
        max_test_images=images,
    )
    task = load_task(data, task_specs(data)[0])
    click.echo(f"CPU, one thread, torch {torch.__version__}, PyOD {pyod}")
    click.echo(f"{dataset}, class {normal_class}: {len(task.train)} training images, {len(task.labels)} test images")
    for name, (module, kind) in PYOD.items():
        ours, theirs = Measured(), Measured()
        few = dataclasses.replace(task, train=task.train[:WARM_UP])
        _ours(name, few, 0)
        _pyod(module, kind, few, 0)
        for seed in range(runs):
            ours.add(task, *_ours(name, task, seed))
            theirs.add(task, *_pyod(module, kind, task, seed))
        _print(name, ours)
        _print(f"PyOD {kind}", theirs)
        fit, score = (_ratio(getattr(theirs, part), getattr(ours, part)) for part in ("fit", "score"))
        click.echo(f"  ratio, fit {fit}, score {score}")
    _views(task, viewed)


def _ours(name: str, task: Task, seed: int) -> tuple[float, float, Scores]:
    """Fit and score; return the seconds of both and the scores."""
    detector = _built(name, task, seed, {"preset": "fast"})
    started = time.process_time()
    detector.fit(task.train, Run())
    detector.calibrate(task.validation)
    between = time.process_time()
    scores = detector.scores(detector.error_matrix(task.test)).double().numpy()
    return between - started, time.process_time() - between, scores


def _pyod(module: str, kind: str, task: Task, seed: int) -> tuple[float, float, Scores]:
    """Fit and score; return the seconds of both and the scores."""
    make = getattr(_imported(f"models.{module}"), kind)
    given = {"n_features": task.train[0].numel(), "random_state": seed, "verbose": 0} if kind == "DeepSVDD" else {}
    detector = make(**given)
    train, test = (images.flatten(1).double().div(255).numpy() for images in (task.train, task.test))
    started = time.process_time()
    detector.fit(train)
    between = time.process_time()
    scores: Scores = np.asarray(detector.decision_function(test), dtype=np.float64)
    return between - started, time.process_time() - between, scores


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(f"pyod.{module}")
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"PyOD is missing ({error.name}), which this project itself does not need; run `pip install pyod`"
        ) from error


def _built(name: str, task: Task, seed: int, own: dict[str, str]) -> Detector:
    kind = DETECTORS[name].Settings
    own = own if "preset" in kind.model_fields else {}
    settings = kind.model_validate(layers.resolved(kind, own, task.spec.dataset))
    shape = Shape(*task.train.shape[1:])
    context = Context(shape, seed, torch.device("cpu"), "float32", task.spec.dataset, task.spec.normal_class)
    return DETECTORS[name].build(settings, context)


def _views(task: Task, count: int) -> None:
    """Print how long Puzzle-AE and GT take to score images; both as their papers have them, untrained."""
    if "gt" not in list(DETECTORS):
        click.echo("Puzzle-AE beside GT: skipped, because this version has no detector gt")
        return
    images = task.test[:count]
    seconds: dict[str, list[float]] = {"puzzle_ae": [], "gt": []}
    detectors = {name: _built(name, task, 0, {"preset": "paper"}) for name in seconds}
    for _ in range(3):
        for name, detector in detectors.items():
            seconds[name].append(_seconds_of_scoring(detector, images))
    for name, detector in detectors.items():
        rate = 1000 * statistics.median(seconds[name]) / len(images)
        click.echo(f"{name:18} {detector.views} views, {rate:.0f} ms an image")
    click.echo(f"  ratio, score {_ratio(seconds['gt'], seconds['puzzle_ae'])}")


def _seconds_of_scoring(detector: Detector, images: Tensor) -> float:
    started = time.process_time()
    detector.error_matrix(images)
    return time.process_time() - started


def _print(title: str, measured: Measured) -> None:
    click.echo(
        f"{title:18} fit {statistics.median(measured.fit):.2f} s, score {statistics.median(measured.score):.3f} s, "
        f"AUROC {_spread(measured.auroc, 1)}, {measured.distinct} distinct scores"
    )


def _ratio(theirs: list[float], ours: list[float]) -> str:
    return _spread([their / our for their, our in zip(theirs, ours, strict=True)], 2)


def _spread(values: list[float], digits: int) -> str:
    """Return the median, and the smallest and the largest."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


if __name__ == "__main__":
    main()
