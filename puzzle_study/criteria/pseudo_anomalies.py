"""Validation images against pseudo-anomalies made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from puzzle_study.criteria.base import Numbers, OfKinds, Weights, counted, kind_aurocs
from puzzle_study.criteria.expecting import kind_weights
from puzzle_study.criteria.kinds.registry import KINDS


class PseudoAnomalies(OfKinds):
    """Mean over the families of kinds of the AUROC of validation images against pseudo-anomalies made of them.

    Families count alike: five kinds change a patch and one blends two images. If all kinds counted alike, a detector of
    small patches would win on images whose anomalies are other objects (benchmarks/RESULTS.md).
    """

    title = "pseudo-anomalies"
    column = "selection"
    meaning = "mean over families of kinds of the AUROC of validation images against pseudo-anomalies made of them"

    @classmethod
    def of_kinds(cls, by_kind: Mapping[str, float], weights: Weights) -> float:
        """Return the mean, in which the kinds of a family share its weight."""
        kinds, values, weight = counted(by_kind, weights)
        families = [KINDS[kind].family for kind in kinds]
        return float(np.average(values, weights=weight / [families.count(family) for family in families]))


def selection(validation_N: Numbers, pseudo_N: Numbers, kinds: Sequence[str]) -> float:
    """Return the criterion of scores, larger for anomalies, whatever anomalies are expected."""
    return PseudoAnomalies.of_kinds(kind_aurocs(validation_N, pseudo_N, kinds), kind_weights())
