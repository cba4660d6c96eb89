"""Scores of a trial's images, from its stored error matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from puzzle_study.statistics import delong, metrics

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from puzzle_study.reporting.study_data import Choice, StudyData

IMAGES_NOTE = (
    "Interval over test images: DeLong’s method, 95 %, for these detectors as they are trained. It speaks of images, "
    "not of trainings: other trainings may differ by more."
)


@dataclass(frozen=True)
class TrialScores:
    """Anomaly scores of one trial; 1 is a typical normal image."""

    validation: NDArray[np.float64]
    pseudo: NDArray[np.float64]
    test: NDArray[np.float64]
    labels: NDArray[np.bool_]
    names: NDArray[np.str_]


def test_scores(data: StudyData, trial: str, choice: Choice) -> TrialScores | None:
    """Return the scores of a trial under an aggregation and an error norm, or None without error matrices.

    Raises:
        UserError: the file of the error matrices is damaged.
    """
    if not data.results.errors_file(trial).exists():
        return None
    arrays = data.results.errors(trial)
    parts = {name: _scores(arrays[name], arrays["validation"], choice) for name in ("validation", "pseudo", "test")}
    return TrialScores(**parts, labels=arrays["labels"].astype(bool), names=arrays["names"])


def selection(scored: TrialScores) -> float:
    """Return the AUROC of validation images against pseudo-anomalies, NaN without the latter."""
    if not len(scored.pseudo):
        return float("nan")
    labels = np.repeat([False, True], [len(scored.validation), len(scored.pseudo)])
    return metrics.auroc(np.concatenate([scored.validation, scored.pseudo]), labels)


def placed(data: StudyData, trial: str, choice: Choice) -> delong.Placed | None:
    """Return the AUROC of a trial with its images' parts in its error, or None without error matrices."""
    scored = test_scores(data, trial, choice)
    return None if scored is None else delong.place(scored.test, scored.labels, scored.names)


def image_difference(
    first: tuple[StudyData, Choice], second: tuple[StudyData, Choice], pairs: pd.Index[Any]
) -> delong.ImageDifference | None:
    """Compare two choices over the test images of their paired trials, or None without error matrices.

    Args:
        first: study and choice A.
        second: study and choice B.
        pairs: tasks and seeds, as the index of what ``paired`` returns.
    """
    sides = [data.placed(choice, pairs) for data, choice in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None
    return delong.image_difference(sides[0], sides[1])


def _scores(error_NK: NDArray[np.float32], validation_NK: NDArray[np.float32], choice: Choice) -> NDArray[np.float64]:
    import torch

    from puzzle_study.detectors import scoring

    score_N = scoring.scores(
        torch.from_numpy(np.ascontiguousarray(error_NK)),
        torch.from_numpy(np.ascontiguousarray(validation_NK)),
        choice.reading,
    )
    return score_N.numpy().astype(np.float64)
