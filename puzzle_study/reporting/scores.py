"""Scores of a trial's images, from its stored error matrices."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from puzzle_study.criteria.base import kind_aurocs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from puzzle_study.reporting.study_data import Choice, StudyData


@dataclass(frozen=True)
class TrialScores:
    """Anomaly scores of one trial; 1 is a typical normal image."""

    validation: NDArray[np.float64]
    pseudo: NDArray[np.float64]
    kinds: NDArray[np.str_]
    test: NDArray[np.float64]
    labels: NDArray[np.bool_]
    names: NDArray[np.str_]

    @property
    def selection(self) -> float:
        """Mean over the kinds of the AUROC of validation images against pseudo-anomalies, NaN without the latter."""
        if not len(self.pseudo):
            return float("nan")
        return fmean(kind_aurocs(self.validation, self.pseudo, self.kinds.tolist()).values())


def test_scores(data: StudyData, trial: str, choice: Choice) -> TrialScores | None:
    """Return the scores of a trial under an aggregation and an error norm, or None without error matrices.

    Raises:
        UserError: the file of the error matrices is damaged.
    """
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
    labels, kinds, names = arrays["labels"].astype(bool), arrays["pseudo_kind"], arrays["names"]
    return TrialScores(**parts, kinds=kinds, labels=labels, names=names)
