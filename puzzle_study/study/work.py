"""A trial's work, and the work left in a plan, for the time left and for `--dry-run`.

This module knows neither Ray nor the clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice

from puzzle_study import config, datasets
from puzzle_study.config.types import Costs, Images
from puzzle_study.criteria.bank import pseudo_anomalies_of
from puzzle_study.datasets import DATASETS, SplitSizes, TaskSpec
from puzzle_study.detectors.scoring import READINGS
from puzzle_study.errors import UserError
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import Piece, TimeLeft
from puzzle_study.trials.augmenting import copies_of
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec

PAUSE = 0.001
"""Seconds for each trial of a plan in which the work left is not counted again: counting takes a constant share."""


@dataclass(frozen=True)
class Work:
    """The work of one trial: an ``epoch`` includes its share of evaluations; ``rest`` does not depend on epochs."""

    epochs: int
    epoch: float
    rest: float

    def after(self, epochs: int) -> float:
        return max(self.epochs - epochs, 0) * self.epoch + self.rest


def costs_of(spec: TrialSpec, sizes: SplitSizes) -> Costs:
    """Return a trial's cost in multiply-adds for this many images."""
    data, own = spec.settings.data, spec.settings.own
    info = DATASETS[data.name]
    pixels = (data.size or info.size) ** 2
    train = sizes.train * (1 if own.epochs_wanted else 1 + copies_of(data.augment))
    return own.costs(Images(train, pixels, data.channels, spec.task.normal_class, spec.task.dataset))


def scored_images(sizes: SplitSizes) -> int:
    """Return how many images a finished detector scores."""
    return sizes.validation + pseudo_anomalies_of(sizes.validation) + sizes.normal + sizes.anomalous


def trial_work(spec: TrialSpec, sizes: SplitSizes, costs: Costs) -> Work:
    """Return the work of a trial with this many images, in the unit of its costs."""
    evaluate, epochs = spec.settings.evaluate, spec.settings.own.epochs_wanted
    test, pseudo = sizes.normal + sizes.anomalous, pseudo_anomalies_of(sizes.validation)
    followed = sizes.validation + min(test, evaluate.max_images or test) + pseudo * evaluate.selection
    changed = 0
    if (robust := evaluate.robust) is not None:
        steps = robust.steps if robust.method == "pgd" else 1
        each = min(sizes.normal, robust.max_images) + min(sizes.validation, robust.max_images)
        changed = len(READINGS) * each * (1 + 2 * steps)
    if (corrupted := evaluate.corrupted) is not None:
        each = min(sizes.validation, corrupted.max_images) + min(pseudo, corrupted.max_images)
        changed += len(corrupted.kinds) * each
    return Work(
        epochs=epochs,
        epoch=sizes.train * costs.epoch + followed * costs.score / evaluate.every,
        rest=costs.fit + (scored_images(sizes) + changed) * costs.score,
    )


@dataclass
class _Begun:
    """A running trial's last report, with its time and epoch; None before the first one."""

    spec: TrialSpec
    at: float
    epoch: int | None = None


class TrialsLeft:
    """The work left in a plan, as its runner reports it; times are seconds of one clock."""

    def __init__(self, plan: Plan, time_left: TimeLeft) -> None:
        self._plan, self._time_left = plan, time_left
        self._work: dict[str, Work] = {}
        self._begun: dict[str, _Begun] = {}
        self._slots, self._not_before = 1, -math.inf

    @property
    def epochs(self) -> list[tuple[int, int]]:
        """Epochs done, and in total, of each running trial that trains."""
        found = [(begun.epoch or 0, self._of(begun.spec).epochs) for begun in self._begun.values()]
        return [(epoch, epochs) for epoch, epochs in found if epochs > 0]

    def clear(self) -> None:
        self._begun.clear()

    def started(self, name: str, spec: TrialSpec, now: float) -> None:
        """Record that a trial runs, or runs again after its worker died."""
        self._begun[name] = _Begun(spec, now)
        self._slots = max(self._slots, len(self._begun))
        self._tell(now)

    def reported(self, name: str, epoch: int, now: float) -> None:
        """Record a trial's epochs done."""
        begun = self._begun[name]
        # A resumed trial's first report counts an earlier run's epochs.
        if begun.epoch is not None:
            work = (epoch - begun.epoch) * self._of(begun.spec).epoch
            self._time_left.worked(work, now - begun.at, begun.spec.settings.detector)
        begun.epoch, begun.at = epoch, now
        self._tell(now)

    def ended(self, name: str, record: Record | None, now: float) -> None:
        """Record that a trial has ended, with its record if it has one."""
        begun = self._begun.pop(name, None)
        # A detector that is fitted at once, with a rough cost, does not show how fast trainings are.
        if begun is not None and record is not None and record.finished and (work := self._of(begun.spec)).epochs:
            epochs = int(record.column("epochs")) - (begun.epoch or 0)
            done = epochs * work.epoch + work.rest
            self._time_left.worked(done, now - begun.at, begun.spec.settings.detector)
        self._tell(now)

    def _tell(self, now: float) -> None:
        if now < self._not_before:
            return
        self._not_before = now + PAUSE * self._plan.total
        known, unknown = self._plan.left()
        running = {begun.spec.key: begun.epoch or 0 for begun in self._begun.values()}
        waiting = [self._left_of(spec) for spec in known if spec.key not in running]
        # Trials that the search has not chosen yet are taken to be like those that it has, in turn.
        chosen = [self._left_of(spec) for planned in self._plan.configurations for spec in planned.trials]
        waiting += islice(cycle(chosen), unknown)
        self._time_left.remains(
            running=[self._left_of(spec, running[spec.key]) for spec in known if spec.key in running],
            waiting=waiting,
            slots=self._slots,
            now=now,
        )

    def _left_of(self, spec: TrialSpec, epochs: int = 0) -> Piece:
        return Piece(self._of(spec).after(epochs), spec.settings.detector)

    def _of(self, spec: TrialSpec) -> Work:
        if spec.key not in self._work:
            self._work[spec.key] = planned_work(spec, self._plan.study.data)
        return self._work[spec.key]


def planned_work(spec: TrialSpec, images: config.Data) -> Work:
    """Return a trial's work in multiply-adds; ``images`` are the study's, which are decoded already."""
    decoded = {"root": images.root, "size": images.size, "grayscale": images.grayscale}
    try:
        sizes = _sizes(spec.settings.data.model_copy(update=decoded), spec.task)
        return trial_work(spec, sizes, costs_of(spec, sizes))
    except UserError:  # the trial will report it and end
        return Work(0, 0.0, 0.0)


@lru_cache(maxsize=1024)
def _sizes(data: config.Data, task: TaskSpec) -> SplitSizes:
    return datasets.split_sizes(data, task)
