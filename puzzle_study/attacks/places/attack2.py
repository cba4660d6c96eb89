"""attack2: each of the K views is perturbed against the true image, put back, and the K results are averaged.

As the paper words it (section 4.3), with puzzles for views and π⁻¹ to put them back.
"""

from __future__ import annotations

from torch import Tensor

from puzzle_study.attacks.objectives import Objective, OwnView, normalised
from puzzle_study.attacks.places.base import Place
from puzzle_study.detectors.base import Viewed


class Attack2(Place):
    """Pushes the error of each view by itself."""

    name = "attack2"
    meaning = "each view is perturbed by itself and put back, and the results are averaged"
    needs_views = True
    detector: Viewed

    def pushed(self, validation_scores: Tensor) -> Tensor:
        """Return the normalised errors."""
        return normalised(self.detector, self.detector.validation_NK)

    @property
    def rows_per_image(self) -> int:
        """K views."""
        return self.detector.views

    def rows(self, x_NCHW: Tensor) -> Tensor:
        """Return all views, image by image."""
        return self.detector.every_view(self.detector.prepare(x_NCHW)).flatten(0, 1)

    def images(self, row_RCHW: Tensor, like_NCHW: Tensor) -> Tensor:
        """Return the mean of the views that were put back."""
        view_NKCHW = row_RCHW.reshape(len(like_NCHW), self.detector.views, *row_RCHW.shape[1:])
        average_NCHW = self.detector.undo(view_NKCHW).mean(1)
        return average_NCHW[..., : like_NCHW.shape[-2], : like_NCHW.shape[-1]]

    def objective(self, x_NCHW: Tensor) -> Objective:
        """Return the error of each view."""
        return OwnView(self.detector, x_NCHW, at_once=self.at_once)
