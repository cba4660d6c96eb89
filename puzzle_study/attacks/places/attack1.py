"""attack1: the image is perturbed before views are made of it (paper, section 4.3)."""

from __future__ import annotations

from torch import Tensor

from puzzle_study.attacks.objectives import Objective
from puzzle_study.attacks.places.base import Place, whole_score


class Attack1(Place):
    """Pushes the image's own score."""

    name = "attack1"
    meaning = "the image is perturbed, before views are made of it"

    def objective(self, x_NCHW: Tensor) -> Objective:
        """Return the score of the image."""
        return whole_score(self.detector, rows=len(x_NCHW), at_once=self.at_once)
