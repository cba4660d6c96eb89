"""Stability: the same images in the same order, whatever the seed or the last epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puzzle_study.criteria.base import Candidate, Criterion, Numbers, Weights
from puzzle_study.criteria.ranks import correlations


class Stability(Criterion):
    """Rank correlation of the scores of the same unlabelled images.

    Over seeds, on validation images and pseudo-anomalies; with one seed, of the end of the training with the
    evaluations before it, on validation images.
    """

    title = "stability"
    meaning = "rank correlation of scores over seeds, or over the last evaluations"
    compares = True
    repeated = True

    @classmethod
    def goodness(cls, candidates: Sequence[Candidate], weights: Weights) -> Numbers:
        """Return the mean rank correlation, [M]; NaN with one seed and one evaluation."""
        return np.array([_stability(candidate) for candidate in candidates])


def _stability(candidate: Candidate) -> float:
    runs = candidate.runs
    if len(runs) > 1:
        found = correlations(np.array([np.concatenate((run.validation_N, run.pseudo_N)) for run in runs]))
        return float(found[np.triu_indices(len(runs), 1)].mean())
    if not runs[0].earlier:
        return float("nan")
    return float(correlations(np.array([runs[0].validation_N, *runs[0].earlier]))[0, 1:].mean())
