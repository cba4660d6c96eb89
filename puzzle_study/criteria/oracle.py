"""Test images with their labels: what no user has, as an upper bound."""

from __future__ import annotations

from puzzle_study.criteria.base import Criterion, Scored
from puzzle_study.statistics import metrics


class Oracle(Criterion):
    """Test AUROC."""

    title = "oracle"
    column = "auroc"
    uses_labels = True

    @classmethod
    def value(cls, scored: Scored) -> float | None:
        """Return the AUROC, or None if the test images are all normal or all anomalous."""
        both = 0 < int(scored.labels_N.sum()) < len(scored.labels_N)
        return metrics.auroc(scored.test_N, scored.labels_N) if both else None
