"""Validation images against pseudo-anomalies made of them."""

from __future__ import annotations

from statistics import fmean

from puzzle_study.criteria.base import Criterion, Scored


class PseudoAnomalies(Criterion):
    """Mean over the kinds of :mod:`puzzle_study.criteria.bank` of the AUROC of validation images against each."""

    title = "pseudo-anomalies"
    column = "selection"

    @classmethod
    def value(cls, scored: Scored) -> float:
        """Return the mean."""
        return fmean(scored.by_kind.values())
