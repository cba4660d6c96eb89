"""attack2_averaged: the image is perturbed by the average of the K gradients, taken before the sign.

The stronger attack that the wording of attack2 suggests.
"""

from __future__ import annotations

from torch import Tensor

from puzzle_study.attacks.objectives import Objective, ThroughViews, normalised
from puzzle_study.attacks.places.base import Place
from puzzle_study.detectors.base import Viewed


class Attack2Averaged(Place):
    """Pushes the mean of the normalised errors against the true image."""

    name = "attack2_averaged"
    meaning = "the image is perturbed along the mean of its views' gradients"
    needs_views = True
    detector: Viewed

    def pushed(self, validation_scores: Tensor) -> Tensor:
        """Return the mean normalised error."""
        return normalised(self.detector, self.detector.validation_NK).mean(1)

    def objective(self, x_NCHW: Tensor) -> Objective:
        """Return the mean error over the views."""
        return ThroughViews(self.detector, rows=len(x_NCHW), at_once=self.at_once, true_NCHW=x_NCHW)
