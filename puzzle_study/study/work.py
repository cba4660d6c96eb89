"""How much work a trial is, and what is left of a plan's: for the time left, and for the estimate of a dry run.

Nothing here knows Ray or the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from puzzle_study import config, datasets
from puzzle_study.criteria.pseudo_anomalies import pseudo_anomalies_of
from puzzle_study.datasets import DATASETS, SplitSizes, TaskSpec
from puzzle_study.detectors.puzzle_ae.rules import scoring_permutations
from puzzle_study.detectors.scoring import AGGREGATIONS, ERROR_NORMS
from puzzle_study.errors import UserError
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import TimeLeft
from puzzle_study.trials.spec import PUZZLE_AE, UNTRAINED, TrialSpec

# Multiply-adds of the U-Net for a pixel are 140 × base², and narrow networks are slower at them.
ADDS_PER_PIXEL, NARROW = 140, 16


@dataclass(frozen=True)
class Costs:
    """What one step costs, all in one unit: multiply-adds, or seconds if they were measured.

    Attributes:
        train: an image in training.
        score: a puzzle in scoring.
        distance: between two images, by which references are counted.
    """

    train: float
    score: float
    distance: float

    @staticmethod
    def of(settings: config.Settings) -> Costs:
        """Return the costs of a configuration in multiply-adds, roughly."""
        data, base, adversary = settings.data, settings.model.base_channels, settings.train.adversary
        pixels = (data.size or DATASETS[data.name].size) ** 2
        solve = float(ADDS_PER_PIXEL * pixels * base * (base + NARROW))
        # Forward, and back to weights and to inputs; the adversary goes forward and back to the input each step.
        steps = {"none": 0, "fgsm": 1, "pgd": adversary.steps}[adversary.method]
        channels = 1 if data.grayscale else DATASETS[data.name].channels
        return Costs(train=(3 + 2 * steps) * solve, score=solve, distance=channels * pixels)


@dataclass(frozen=True)
class Work:
    """The work of one trial, in the unit of its costs.

    Attributes:
        epochs: at most.
        epoch: one of them, with its share of the evaluations along training.
        rest: what follows: calibration, scoring, robustness; all of a reference.
    """

    epochs: int
    epoch: float
    rest: float

    def after(self, epochs: int) -> float:
        """Return what is left after so many epochs."""
        return max(self.epochs - epochs, 0) * self.epoch + self.rest


def trial_work(spec: TrialSpec, images: SplitSizes, costs: Costs) -> Work:
    """Return the work of a trial on so many images."""
    settings, evaluate = spec.settings, spec.settings.evaluate
    test, pseudo = images.normal + images.anomalous, pseudo_anomalies_of(images.validation)
    scored = images.validation + pseudo + test
    if spec.detector not in (PUZZLE_AE, UNTRAINED):
        return Work(0, 0.0, images.train * (images.train + scored) * costs.distance)
    count = settings.score.permutations
    if count == "all":
        count = scoring_permutations(settings, normal_class=spec.task.normal_class)
    image = count * costs.score
    followed = images.validation + min(test, evaluate.max_images or test) + pseudo * evaluate.selection
    attacked = 0
    if (robust := evaluate.robust) is not None:
        steps = robust.steps if robust.method == "pgd" else 1
        each = min(images.normal, robust.max_images) + min(images.validation, robust.max_images)
        attacked = len(ERROR_NORMS) * len(AGGREGATIONS) * each * (1 + 2 * steps)
    return Work(
        epochs=settings.train.epochs,
        epoch=images.train * costs.train + followed * image / evaluate.every,
        rest=(scored + attacked) * image,
    )


@dataclass
class _Begun:
    """A trial that runs: what was last heard of it, and when; ``epoch`` is None before it has reported one."""

    spec: TrialSpec
    at: float
    epoch: int | None = None


class TrialsLeft:
    """What is left of a plan's trials, told by whoever runs them; times are seconds of one clock.

    Args:
        plan: what is trained; what it has a record of is done.
        time_left: what is told of the work done and left.
    """

    def __init__(self, plan: Plan, time_left: TimeLeft) -> None:
        self._plan, self._time_left = plan, time_left
        self._work: dict[str, Work] = {}
        self._begun: dict[str, _Begun] = {}
        self._slots = 1

    @property
    def epochs(self) -> list[tuple[int, int]]:
        """Epochs done, and in all, of each running trial that trains."""
        found = [(begun.epoch or 0, self._of(begun.spec).epochs) for begun in self._begun.values()]
        return [(epoch, epochs) for epoch, epochs in found if epochs > 0]

    def clear(self) -> None:
        """Forget what is running."""
        self._begun.clear()

    def started(self, name: str, spec: TrialSpec, now: float) -> None:
        """Say that a trial runs, or runs again after its worker died."""
        self._begun[name] = _Begun(spec, now)
        self._slots = max(self._slots, len(self._begun))
        self._tell(now)

    def reported(self, name: str, epoch: int, now: float) -> None:
        """Say how many epochs of a trial are done."""
        begun = self._begun[name]
        # The first report of a trial that goes on counts epochs of an earlier run.
        if begun.epoch is not None:
            self._time_left.worked((epoch - begun.epoch) * self._of(begun.spec).epoch, now - begun.at)
        begun.epoch, begun.at = epoch, now
        self._tell(now)

    def ended(self, name: str, record: Mapping[str, Any] | None, now: float) -> None:
        """Say that a trial has ended, with its record if it has one."""
        begun = self._begun.pop(name, None)
        finished = record if record is not None and record["status"] == "finished" else None
        # References, whose work is counted roughly, do not tell how fast trainings are.
        if begun is not None and finished is not None and begun.spec.detector == PUZZLE_AE:
            work, epochs = self._of(begun.spec), finished["epochs"] - (begun.epoch or 0)
            self._time_left.worked(epochs * work.epoch + work.rest, now - begun.at)
        self._tell(now)

    def _tell(self, now: float) -> None:
        known, unknown = self._plan.left()
        running = {begun.spec.key: begun.epoch or 0 for begun in self._begun.values()}
        waiting = [self._of(spec).after(0) for spec in known if spec.key not in running]
        if unknown:
            trials = [spec for planned in self._plan.configurations for spec in planned.trials]
            waiting += [fmean(self._of(spec).after(0) for spec in trials)] * unknown
        self._time_left.remains(
            running=[self._of(spec).after(running[spec.key]) for spec in known if spec.key in running],
            waiting=waiting,
            slots=self._slots,
            now=now,
        )

    def _of(self, spec: TrialSpec) -> Work:
        if spec.key not in self._work:
            self._work[spec.key] = planned_work(spec, self._plan.study.data)
        return self._work[spec.key]


def planned_work(spec: TrialSpec, images: config.Data) -> Work:
    """Return the work of a trial in multiply-adds; ``images`` are the study's, which are decoded already."""
    decoded = {"root": images.root, "size": images.size, "grayscale": images.grayscale}
    try:
        sizes = _sizes(spec.settings.data.model_copy(update=decoded), spec.task)
        return trial_work(spec, sizes, Costs.of(spec.settings))
    except UserError:  # the trial will say so, and be done
        return Work(0, 0.0, 0.0)


@lru_cache(maxsize=1024)
def _sizes(data: config.Data, task: TaskSpec) -> SplitSizes:
    return datasets.split_sizes(data, task)
