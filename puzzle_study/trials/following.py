"""A training as its trial follows it: checkpoints, the AUROC along the epochs, the time it takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from puzzle_study import config
from puzzle_study.criteria.bank import PseudoAnomalies
from puzzle_study.criteria.pseudo_anomalies import selection
from puzzle_study.datasets import Task
from puzzle_study.datasets.subset import chosen_images
from puzzle_study.detectors import checkpoint, scoring
from puzzle_study.detectors.base import Detector, Run
from puzzle_study.statistics import metrics
from puzzle_study.trials.augmenting import Augmentation

log = logging.getLogger("puzzle_study.trials")

EpochCallback = Callable[[dict[str, float]], None]
EARLIER = 3
"""Evaluations before the last one of which the errors of the validation images are kept."""
FOLLOWED = ("auroc", "selection")
"""What is measured along the training, each by norm and aggregation: ``auroc_max_l2``."""


class Clock:
    """Time spent on a trial, over all the processes that worked on it; of work for several trials it has its share."""

    def __init__(self) -> None:
        self.earlier = 0.0
        self._spent, self._since, self._share = 0.0, time.perf_counter(), 1.0

    @property
    def seconds(self) -> float:
        """Seconds of this process, and of earlier ones up to the checkpoint from which it went on."""
        return self.earlier + self.now()

    def now(self) -> float:
        """Return the seconds that this process spent on the trial."""
        return self._spent + self._share * (time.perf_counter() - self._since)

    def take(self, share: float) -> None:
        """Count this share of the time from now on: 1 alone, 0 while another trial has its turn."""
        self._spent, self._since, self._share = self.now(), time.perf_counter(), share


@dataclass(eq=False)
class Following(Run):
    """Receives the epochs of a detector's training; keeps checkpoints, and the rows of epochs.parquet.

    The seconds are those of all processes that worked on the trial, in training and in evaluating along it. A trial
    that was trained along with others is ``handed`` the content of its last checkpoint.
    """

    detector: Detector
    evaluate: config.Evaluate
    followed: FollowedImages
    keeper: checkpoint.Keeper
    clock: Clock
    on_epoch: EpochCallback | None
    augmentation: Augmentation
    handed: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    validations: list[Tensor] = field(default_factory=list)
    _started: float = 0.0

    @property
    def epochs(self) -> int:
        return len(self.history)

    def resumed(self) -> dict[str, Any] | None:
        """Return the state of the newest checkpoint that can be read."""
        state = self.handed or checkpoint.load_newest(self.keeper.folder)
        self._started = self.clock.now()
        if state is None:
            return None
        self.history = list(state["history"])
        self.train_seconds, self.evaluation_seconds = state["train_seconds"], state["evaluation_seconds"]
        self.clock.earlier, self.validations = state["seconds"], list(state["validations"])
        log.info("going on after epoch %d", self.epochs)
        return dict(state["trained"])

    def images(self, images_NCHW: Tensor, epoch: int) -> Tensor:
        """Return the images of an epoch, augmented anew."""
        return self.augmentation.of_epoch(images_NCHW, epoch)

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        """Follow an epoch and keep its checkpoint."""
        now = self.clock.now()
        self.train_seconds += now - self._started
        if (self.epochs + 1) % self.evaluate.every == 0 or last:
            seen = self.detector.of_views(self.evaluate.views)
            row = row | self.followed.measure(seen)
            self.validations = [*self.validations, seen.validation_NK.cpu().clone()][-EARLIER - 1 :]
            self.evaluation_seconds += self.clock.now() - now
        self.history.append(row)
        content = {
            "trained": state(),
            "history": self.history,
            "train_seconds": self.train_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "seconds": self.clock.seconds,
            "validations": self.validations,
        }
        self.keeper.keep(self.epochs, content, last=last)
        log_epoch(row)
        if self.on_epoch is not None:
            self.on_epoch(row)
        self._started = self.clock.now()

    def earlier(self) -> np.ndarray:
        """Return the error matrices of the validation images at the evaluations before the last one, [E, V, K]."""
        found = [matrix_VK.numpy() for matrix_VK in self.validations[:-1]]
        return np.stack(found) if found else np.empty((0, *self.detector.validation_NK.shape), np.float32)

    def columns(self) -> dict[str, list[float | None]]:
        """Return the history as columns for JSON; None stands for values that an epoch does not have."""
        names = list(dict.fromkeys(name for row in self.history for name in row))
        return {
            name: [None if math.isnan(value := row.get(name, math.nan)) else value for row in self.history]
            for name in names
        }


def log_epoch(row: dict[str, float]) -> None:
    """Log what an epoch's row says of the training."""
    plain = {name: value for name, value in row.items() if name.partition("_")[0] not in FOLLOWED}
    log.info("%s", ", ".join(f"{name} {value:.6g}" for name, value in plain.items()))


@dataclass(frozen=True, eq=False)
class FollowedImages:
    """The images and labels on which a training is followed; without ``pseudo``, so is no criterion."""

    validation: Tensor
    test: Tensor
    labels: np.ndarray
    pseudo: PseudoAnomalies | None

    @staticmethod
    def of(task: Task, evaluate: config.Evaluate, validation: Tensor, pseudo: PseudoAnomalies) -> FollowedImages:
        """Choose a task's images, on the device of ``validation``."""
        device = validation.device
        images, labels = chosen_images(task, evaluate.max_images)
        return FollowedImages(
            validation, images.to(device), labels.numpy(), pseudo.to(device) if evaluate.selection else None
        )

    def measure(self, detector: Detector) -> dict[str, float]:
        """Return the AUROC by norm and aggregation, NaN if errors are not finite or the test lacks a side.

        With pseudo-anomalies also the selection criterion: validation images against them, without test labels.
        """
        detector.calibrate(self.validation)
        # On the CPU, so that a GPU is waited for once a matrix and not once a reading.
        lacking = metrics.lacking(len(self.labels), int(self.labels.sum()))
        validation_NK = detector.validation_NK.cpu()
        test_NK = None if lacking else detector.error_matrix(self.test).cpu()
        pseudo_NK = None if self.pseudo is None else detector.error_matrix(self.pseudo.images).cpu()
        values = {}
        for reading in scoring.READINGS:
            name = f"{reading.aggregation}_{reading.error}"
            validation_N, test_N, pseudo_N = (
                None if error_NK is None else scoring.scores(error_NK, validation_NK, reading).numpy()
                for error_NK in (validation_NK, test_NK, pseudo_NK)
            )
            values[f"auroc_{name}"] = math.nan
            if test_N is not None and np.isfinite(test_N).all():
                values[f"auroc_{name}"] = metrics.auroc(test_N, self.labels)
            if self.pseudo is not None and validation_N is not None and pseudo_N is not None:
                finite = np.isfinite(validation_N).all() and np.isfinite(pseudo_N).all()
                values[f"selection_{name}"] = (
                    selection(validation_N, pseudo_N, self.pseudo.kinds) if finite else math.nan
                )
        return values
