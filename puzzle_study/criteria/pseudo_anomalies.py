"""Validation images against pseudo-anomalies made of them."""

from __future__ import annotations

import numpy as np

from puzzle_study.criteria.base import Criterion, Scored
from puzzle_study.statistics import metrics


class PseudoAnomalies(Criterion):
    """AUROC of validation images against the pseudo-anomalies of :mod:`puzzle_study.criteria.bank`."""

    title = "pseudo-anomalies"
    column = "selection"

    @classmethod
    def value(cls, scored: Scored) -> float:
        """Return the AUROC."""
        labels = np.repeat([False, True], [len(scored.validation_N), len(scored.pseudo_N)])
        return metrics.auroc(np.concatenate((scored.validation_N, scored.pseudo_N)), labels)
