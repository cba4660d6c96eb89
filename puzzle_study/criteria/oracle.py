"""Test images with their labels: what no user has, as an upper bound."""

from __future__ import annotations

from puzzle_study.criteria.base import Judging, Scored, Weights


class Oracle(Judging):
    """Test AUROC."""

    title = "oracle"
    column = "auroc"
    meaning = "test AUROC, labels included"
    uses_labels = True

    @classmethod
    def value(cls, scored: Scored, weights: Weights) -> float | None:
        """Return the AUROC, or None if the test images are all normal or all anomalous."""
        return scored.auroc
