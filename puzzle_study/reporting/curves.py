"""ROC and precision-recall curves of the winner, from stored error matrices.

Shape legend: P thresholds of a trial, G points of the common grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE, Calibration
from puzzle_study.reporting.scores import TrialScores, test_scores
from puzzle_study.reporting.winning import Task, Won
from puzzle_study.statistics import intervals, metrics

Numbers = NDArray[np.float64]
GRID = np.linspace(0, 1, 201)


@dataclass(frozen=True, eq=False)
class Curve:
    """The curves of one trial; all shares are in [0, 1].

    Attributes:
        key: task and seed.
        fpr_P, tpr_P: share of normal and of anomalous images above each threshold, ascending.
        recall_P, precision_P: share of the anomalies above a threshold, and of anomalies among all above it.
        alarms, caught, precision: at the threshold that validation images gave; NaN if it flags nothing.
        threshold: that score.
        normal, anomalous: numbers of test images.
    """

    key: Task
    fpr_P: Numbers
    tpr_P: Numbers
    recall_P: Numbers
    precision_P: Numbers
    alarms: float
    caught: float
    precision: float
    threshold: float
    normal: int
    anomalous: int

    @property
    def tpr_G(self) -> Numbers:
        """The share of anomalies caught at each share of false alarms, [G]."""
        return self.tpr_P[np.searchsorted(self.fpr_P, GRID + 1e-9, side="right") - 1]

    @property
    def precision_G(self) -> Numbers:
        """The precision at each recall, [G]."""
        return np.interp(GRID, self.recall_P, self.precision_P)

    def caught_at(self, rate: float) -> float:
        """Return the share of anomalies above the lowest threshold with at most this share of false alarms."""
        return float(self.tpr_P[self.fpr_P <= rate + 1e-9].max())


def curves(won: Won) -> list[Curve]:
    """Return the curves of every trial with error matrices and test images of both sorts."""
    found = []
    for key, trial, choice in won.trials():
        scored = test_scores(won.data, trial, choice)
        if scored is not None and not metrics.lacking(len(scored.labels), int(scored.labels.sum())):
            found.append(_curve(key, scored))
    return found


def _curve(key: Task, scored: TrialScores) -> Curve:
    from sklearn.metrics import precision_recall_curve, roc_curve

    labels, test = scored.labels, scored.test
    fpr_P, tpr_P, _ = roc_curve(labels, test, drop_intermediate=False)
    precision_P, recall_P, _ = precision_recall_curve(labels, test)
    threshold = Calibration(np.sort(scored.validation)).threshold(FALSE_POSITIVE_RATE)
    flagged = test > threshold
    return Curve(
        key,
        *(fpr_P, tpr_P, recall_P[::-1], precision_P[::-1]),
        alarms=float(flagged[~labels].mean()),
        caught=float(flagged[labels].mean()),
        precision=float(labels[flagged].mean()) if flagged.any() else float("nan"),
        threshold=threshold,
        normal=int((~labels).sum()),
        anomalous=int(labels.sum()),
    )


def caught_at(found: Sequence[Curve], rate: float) -> intervals.Mean:
    """Return the mean over tasks and seeds of the share of anomalies caught at a share of false alarms."""
    return intervals.mean_interval(
        [one.caught_at(rate) for one in found], [one.key[:-1] for one in found], bounds=(0, 1)
    )
