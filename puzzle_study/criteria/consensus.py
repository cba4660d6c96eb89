"""Consensus: a detector is trusted if the others rank the images as it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puzzle_study.criteria.base import Candidate, Criterion, Numbers, Weights
from puzzle_study.criteria.ranks import correlations, mean_off


class Consensus(Criterion):
    """Mean rank correlation with the other configurations' scores of the test images, which it sees without labels.

    Readings of one training agree because it is one training, so they do not count.
    """

    title = "consensus"
    meaning = "mean rank correlation with other configurations on unlabelled test images"
    compares = True
    transductive = True

    @classmethod
    def goodness(cls, candidates: Sequence[Candidate], weights: Weights) -> Numbers:
        """Return the mean rank correlation over seeds, [M]; NaN without another configuration or test images."""
        names = np.array([candidate.configuration for candidate in candidates])
        if len(candidates[0].runs[0].test_N) < 2 or len(set(names)) < 2:
            return np.full(len(candidates), np.nan)
        runs = min(len(candidate.runs) for candidate in candidates)
        found = [
            correlations(np.array([candidate.runs[run].test_N for candidate in candidates])) for run in range(runs)
        ]
        return mean_off(np.mean(found, axis=0), names[:, None] != names)
