"""attack2: each of the K views is perturbed against the true image, put back, and the K results are averaged.

As the paper words it (section 4.3), with puzzles for views and π⁻¹ to put them back.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from puzzle_study.attacks.adapter import Centre
from puzzle_study.attacks.objectives import Objective, OwnView, normalised
from puzzle_study.attacks.places.base import Place
from puzzle_study.detectors.base import Viewed


class Attack2(Place):
    """Pushes the error of each view by itself."""

    name = "attack2"
    needs_views = True

    @property
    def viewed(self) -> Viewed:
        """The detector, which has views."""
        return cast(Viewed, self.detector)

    @classmethod
    def centred(cls, detector: nn.Module, validation_scores: Tensor) -> Centre:
        """Return threshold and scale of a normalised error."""
        viewed = cast(Viewed, detector)
        return Centre.of(normalised(viewed, viewed.validation_NK))

    @property
    def rows_per_image(self) -> int:
        """K views."""
        return self.viewed.views

    def rows(self, x_NCHW: Tensor) -> Tensor:
        """Return all views, image by image."""
        return self.viewed.every_view(self.viewed.prepare(x_NCHW)).flatten(0, 1)

    def images(self, row_RCHW: Tensor, like_NCHW: Tensor) -> Tensor:
        """Return the mean of the views that were put back."""
        view_NKCHW = row_RCHW.reshape(len(like_NCHW), self.viewed.views, *row_RCHW.shape[1:])
        average_NCHW = self.viewed.undo(view_NKCHW).mean(1)
        return average_NCHW[..., : like_NCHW.shape[-2], : like_NCHW.shape[-1]]

    def objective(self, x_NCHW: Tensor) -> Objective:
        """Return the error of each view."""
        return OwnView(self.viewed, x_NCHW, at_once=self.at_once)
