"""A trial's work, and the work left in a plan, for the time left and for `--dry-run`.

This module knows neither Ray nor the clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice

from puzzle_study import config, datasets
from puzzle_study.config.types import Costs, Images
from puzzle_study.criteria.bank import pseudo_anomalies_of
from puzzle_study.datasets import DATASETS, SplitSizes, TaskSpec
from puzzle_study.detectors.scoring import readings
from puzzle_study.errors import UserError
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import Piece, TimeLeft
from puzzle_study.trials.augmenting import copies_of
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec, by_training

PAUSE = 0.001
"""Seconds for each trial of a plan in which the work left is not counted again: counting takes a constant share."""


@dataclass(frozen=True)
class Work:
    """The work of one trial.

    Attributes:
        epochs: at most.
        train: of an epoch's training.
        follow: an epoch's share of the evaluations.
        rest: what does not depend on epochs.
    """

    epochs: int
    train: float
    follow: float
    rest: float

    @property
    def epoch(self) -> float:
        """Work of an epoch with its share of the evaluations."""
        return self.train + self.follow

    def after(self, epochs: int) -> float:
        """Return what is left after some epochs."""
        return max(self.epochs - epochs, 0) * self.epoch + self.rest


def training_work(trials: Iterable[tuple[TrialSpec, Work]], epochs: int = 0) -> float:
    """Return what is left, after some epochs, of a training that answers these trials."""
    train, rest = 0.0, 0.0
    follow: dict[str, float] = {}
    for spec, work in trials:
        left = max(work.epochs - epochs, 0)
        train = max(train, left * work.train)
        follow[spec.way] = max(follow.get(spec.way, 0.0), left * work.follow)
        rest += work.rest
    return train + sum(follow.values()) + rest


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
    share = min(1.0, (evaluate.views or costs.views) / costs.views)  # of the views, along the training and of pseudo
    changed = 0
    if (robust := evaluate.robust) is not None:
        steps = robust.steps if robust.method == "pgd" else 1
        each = min(sizes.normal, robust.max_images) + min(sizes.validation, robust.max_images)
        changed = len(readings(spec.numbers_of_views)) * each * (1 + 2 * steps)
    if (corrupted := evaluate.corrupted) is not None:
        each = min(sizes.validation, corrupted.max_images) + min(pseudo, corrupted.max_images)
        changed += len(corrupted.kinds) * each
    return Work(
        epochs=epochs,
        train=sizes.train * costs.epoch,
        follow=followed * share * costs.score / evaluate.every,
        rest=costs.fit + (scored_images(sizes) - (1 - share) * pseudo + changed) * costs.score,
    )


@dataclass
class _Begun:
    """A running training's last report, with its time and epoch; None before the first one.

    ``open`` has the trials that it answers and that have not ended, most often one, by the names that they run under.
    """

    open: dict[str, TrialSpec]
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
        """Epochs done, and in total, of each training that runs."""
        found = [(begun.epoch or 0, max(map(self._epochs_of, begun.open.values()))) for begun in self._begun.values()]
        return [(epoch, epochs) for epoch, epochs in found if epochs > 0]

    def clear(self) -> None:
        self._begun.clear()

    def started(self, name: str, spec: TrialSpec, now: float) -> None:
        """Record that a trial runs, or runs again after its worker died."""
        begun = self._begun.get(spec.stem)
        if begun is None or name in begun.open:
            begun = self._begun[spec.stem] = _Begun({}, now)
        begun.open[name] = spec
        self._slots = max(self._slots, len(self._begun))
        self._tell(now)

    def reported(self, name: str, epoch: int, now: float) -> None:
        """Record the epochs done by a trial's training."""
        begun = next(begun for begun in self._begun.values() if name in begun.open)
        # A resumed trial's first report counts an earlier run's epochs.
        if begun.epoch is not None:
            specs = list(begun.open.values())
            work = self._left_of(specs, begun.epoch).work - self._left_of(specs, epoch).work
            self._time_left.worked(work, now - begun.at, begun.open[name].settings.detector)
        begun.epoch, begun.at = epoch, now
        self._tell(now)

    def ended(self, name: str, record: Record | None, now: float) -> None:
        """Record that a trial has ended, with its record if it has one."""
        stem, begun = next(
            ((stem, begun) for stem, begun in self._begun.items() if name in begun.open), ("", _Begun({}, now))
        )
        spec = begun.open.pop(name, None)
        # A detector that is fitted at once, with a rough cost, does not show how fast trainings are.
        if spec is not None and record is not None and record.finished and (work := self._of(spec)).epochs:
            epochs = int(record.column("epochs"))
            done = max(0, epochs - (begun.epoch or 0)) * work.epoch + work.rest
            self._time_left.worked(done, now - begun.at, spec.settings.detector)
            begun.epoch, begun.at = max(begun.epoch or 0, epochs), now
        if not begun.open:
            self._begun.pop(stem, None)
        self._tell(now)

    def _tell(self, now: float) -> None:
        if now < self._not_before:
            return
        self._not_before = now + PAUSE * self._plan.total
        known, unknown = self._plan.left()
        running, waiting = list[Piece](), list[Piece]()
        for specs in by_training(known):
            begun = self._begun.get(specs[0].stem)
            (waiting if begun is None else running).append(self._left_of(specs, (begun and begun.epoch) or 0))
        # Trainings that the search has not chosen yet are taken to be like those that it has, in turn.
        chosen = by_training(spec for planned in self._plan.configurations for spec in planned.trials)
        waiting += islice(cycle([self._left_of(specs) for specs in chosen] if unknown else []), unknown)
        self._time_left.remains(running=running, waiting=waiting, slots=self._slots, now=now)

    def _left_of(self, specs: Sequence[TrialSpec], epochs: int = 0) -> Piece:
        return Piece(training_work([(spec, self._of(spec)) for spec in specs], epochs), specs[0].settings.detector)

    def _epochs_of(self, spec: TrialSpec) -> int:
        return self._of(spec).epochs

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
        return Work(0, 0.0, 0.0, 0.0)


@lru_cache(maxsize=1024)
def _sizes(data: config.Data, task: TaskSpec) -> SplitSizes:
    return datasets.split_sizes(data, task)
