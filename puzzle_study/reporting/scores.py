"""Scores of a trial's images, from its stored error matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from puzzle_study.config.types import Reading
from puzzle_study.criteria.base import Scored
from puzzle_study.criteria.ensemble import blended
from puzzle_study.criteria.pseudo_anomalies import selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from puzzle_study.reporting.choice import Choice
    from puzzle_study.reporting.study_data import StudyData


@dataclass(frozen=True)
class TrialScores:
    """Anomaly scores of one trial; 1 is a typical normal image.

    ``compared`` are the validation images' scores to compare pseudo-anomalies with, which may have been scored by fewer
    views (``evaluate.views``).
    """

    validation: NDArray[np.float64]
    compared: NDArray[np.float64]
    pseudo: NDArray[np.float64]
    kinds: NDArray[np.str_]
    test: NDArray[np.float64]
    labels: NDArray[np.bool_]
    names: NDArray[np.str_]

    @property
    def selection(self) -> float:
        """What the selection by pseudo-anomalies is, whatever is expected; NaN without pseudo-anomalies."""
        if not len(self.pseudo):
            return float("nan")
        return selection(self.compared, self.pseudo, self.kinds.tolist())


def test_scores(data: StudyData, trial: str, choice: Choice) -> TrialScores | None:
    """Return the scores of a trial under an aggregation and an error norm, or None without error matrices.

    Raises:
        UserError: the file of the error matrices is damaged.
    """
    if not data.results.errors_file(trial).exists():
        return None
    return _read(data.results.errors(trial), choice.reading)


def ensemble_scores(data: StudyData, described: Mapping[str, Any]) -> TrialScores:
    """Return the scores of an ensemble that ``detector.json`` describes, from its members' error matrices.

    Raises:
        UserError: a file of error matrices is missing or damaged.
    """
    parts = [
        _read(data.results.errors(key), Reading(**member["reading"]))
        for key, member in zip(described["members"], described["described"]["members"], strict=True)
    ]
    runs = [Scored(one.validation, one.pseudo, tuple(one.kinds.tolist()), one.test, one.labels) for one in parts]
    found = blended(runs)
    validation, pseudo, test = (np.asarray(of, np.float64) for of in (found.validation_N, found.pseudo_N, found.test_N))
    return replace(parts[0], validation=validation, compared=validation, pseudo=pseudo, test=test)


def _read(arrays: Mapping[str, NDArray[Any]], reading: Reading) -> TrialScores:
    from puzzle_study.detectors import scoring

    parts = {name: score_N.astype(np.float64) for name, score_N in scoring.matrix_scores(arrays, reading).items()}
    labels, kinds, names = arrays["labels"].astype(bool), arrays["pseudo_kind"], arrays["names"]
    return TrialScores(**parts, kinds=kinds, labels=labels, names=names)
