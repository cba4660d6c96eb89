"""The kind of pseudo-anomaly that a detector finds worst."""

from __future__ import annotations

from collections.abc import Mapping

from puzzle_study.criteria.base import OfKinds, Weights, counted


class WorstKind(OfKinds):
    """Lowest AUROC over the kinds, of those that count most."""

    title = "worst kind"
    column = "worst_kind"
    meaning = "lowest AUROC of validation images against a kind of pseudo-anomalies"

    @classmethod
    def of_kinds(cls, by_kind: Mapping[str, float], weights: Weights) -> float:
        """Return the lowest AUROC."""
        _, values, weight = counted(by_kind, weights)
        return float(values[weight == weight.max()].min())
