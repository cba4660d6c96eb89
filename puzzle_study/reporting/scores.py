"""Scores of a trial's images, from its stored error matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from puzzle_study.statistics import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from puzzle_study.reporting.study_data import Choice, StudyData


@dataclass(frozen=True)
class TrialScores:
    """Anomaly scores of one trial; 1 is a typical normal image."""

    validation: NDArray[np.float64]
    pseudo: NDArray[np.float64]
    test: NDArray[np.float64]
    labels: NDArray[np.bool_]
    names: NDArray[np.str_]

    @property
    def selection(self) -> float:
        """AUROC of validation images against pseudo-anomalies, NaN without the latter."""
        if not len(self.pseudo):
            return float("nan")
        labels = np.repeat([False, True], [len(self.validation), len(self.pseudo)])
        return metrics.auroc(np.concatenate([self.validation, self.pseudo]), labels)


def test_scores(data: StudyData, trial: str, choice: Choice) -> TrialScores | None:
    """Return a trial's scores under an aggregation and an error norm; None without matrices, UserError if damaged."""
    import torch

    from puzzle_study.detectors import scoring

    if not data.results.errors_file(trial).exists():
        return None
    arrays = data.results.errors(trial)
    errors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in ("validation", "pseudo", "test")}
    parts = {
        name: scoring.scores(error_NK, errors["validation"], choice.reading).numpy().astype(np.float64)
        for name, error_NK in errors.items()
    }
    return TrialScores(**parts, labels=arrays["labels"].astype(bool), names=arrays["names"])
