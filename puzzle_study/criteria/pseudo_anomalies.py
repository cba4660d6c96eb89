"""Validation images against pseudo-anomalies made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from puzzle_study.criteria.base import OfKinds, Weights, counted


class PseudoAnomalies(OfKinds):
    """Mean over the kinds of :mod:`puzzle_study.criteria.bank` of the AUROC of validation images against each."""

    title = "pseudo-anomalies"
    column = "selection"
    meaning = "mean over the kinds of the AUROC of validation images against pseudo-anomalies made of them"

    @classmethod
    def of_kinds(cls, by_kind: Mapping[str, float], weights: Weights) -> float:
        """Return the weighted mean."""
        values, weight = counted(by_kind, weights)
        return float(np.average(values, weights=weight))
