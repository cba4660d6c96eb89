"""The error on validation images: what most training code selects by."""

from __future__ import annotations

from puzzle_study.criteria.base import Judging, Scored, Weights


class ValError(Judging):
    """Mean error of the validation images; it compares settings of one detector, because detectors differ in units."""

    title = "validation error"
    column = "val_error"
    meaning = "mean error of validation images, lower is better"

    @classmethod
    def value(cls, scored: Scored, weights: Weights) -> float:
        """Return the error."""
        return scored.val_error

    @classmethod
    def gain(cls, value: float) -> float:
        """Return the error with a minus."""
        return -value
