"""Borda counts: every kind of pseudo-anomaly ranks the candidates, and the ranks are averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puzzle_study.criteria.base import Candidate, Criterion, Numbers, Weights, counted
from puzzle_study.criteria.ranks import mean_rank


class Borda(Criterion):
    """Mean rank over the kinds, 1 for a candidate that is first in all: an easy kind counts no more than others.

    Source: rank aggregation of criteria, as in Goswami et al., ICLR 2023.
    """

    title = "Borda count"
    meaning = "mean rank over the kinds of pseudo-anomalies"
    compares = True

    @classmethod
    def goodness(cls, candidates: Sequence[Candidate], weights: Weights) -> Numbers:
        """Return the mean rank in [0, 1], [M]."""
        found = [counted(candidate.by_kind, weights) for candidate in candidates]
        return mean_rank(np.array([values for _, values, _ in found]).T, found[0][2])
