"""What a place to attack decides: which rows are perturbed, what is pushed, and how rows become images again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from puzzle_study.attacks.adapter import Centre
from puzzle_study.attacks.objectives import Objective, ThroughViews, WholeScore
from puzzle_study.detectors.base import MOST_IMAGES_AT_ONCE, Detector, Viewed
from puzzle_study.detectors.memory import AtOnce, room
from puzzle_study.errors import UserError

# Numbers in one copy of the rows of a batch. Batches do not depend on memory, so that random starts do not either.
NUMBERS_PER_BATCH = 2**23


class Place(ABC):
    """A place to attack one detector at.

    Args:
        detector: module from images in [0, 1] to scores.
        validation_scores: of normal images that were held out.
        at_once: views (images, for a module without views) in memory together with their gradients.

    Attributes:
        name: in the registry and in tables.
        meaning: what is perturbed, as a report says it after the name.
        needs_views: whether the detector must have views that can be made and undone.
        centre: threshold and scale of what is pushed.

    Raises:
        UserError: the attack perturbs views and the detector has none.
    """

    name: ClassVar[str]
    meaning: ClassVar[str] = ""
    needs_views: ClassVar[bool] = False

    def __init__(self, detector: nn.Module, validation_scores: Tensor, at_once: AtOnce) -> None:
        if self.needs_views and not isinstance(detector, Viewed):
            title = detector.title if isinstance(detector, Detector) else type(detector).__name__
            raise UserError(f"{self.name} perturbs views and {title} has none; give attacks.attacks attack1")
        self.detector, self.at_once = detector, at_once
        self.centre = Centre.of(self.pushed(validation_scores))

    def pushed(self, validation_scores: Tensor) -> Tensor:
        """Return what is pushed, for the validation images."""
        return validation_scores

    @property
    def rows_per_image(self) -> int:
        """How many rows the attack works on for each image."""
        return 1

    def batch_size(self, image_CHW: Tensor) -> int:
        """Return how many images are attacked together."""
        return max(1, NUMBERS_PER_BATCH // (image_CHW.numel() * self.rows_per_image))

    def rows(self, x_NCHW: Tensor) -> Tensor:
        """Return what is perturbed, [R, C, H, W]: the images themselves."""
        return x_NCHW

    def images(self, row_RCHW: Tensor, like_NCHW: Tensor) -> Tensor:
        """Return the images that perturbed rows stand for, in the shape of the clean ones."""
        return row_RCHW

    @abstractmethod
    def objective(self, x_NCHW: Tensor) -> Objective:
        """Return what is pushed when these clean images are attacked."""

    def score(self, x_NCHW: Tensor) -> Tensor:
        """Return the detector's scores of images in [0, 1], float32 [N], without gradients."""
        return score_images(self.detector, x_NCHW, at_once=self.at_once)


@torch.no_grad()
def score_images(detector: nn.Module, x_NCHW: Tensor, *, at_once: AtOnce) -> Tensor:
    """Return scores of images in [0, 1], float32 [N] on their device, as many at once as fit."""
    return whole_score(detector, rows=len(x_NCHW), at_once=at_once).values(x_NCHW)[0].float()


def whole_score(detector: nn.Module, *, rows: int, at_once: AtOnce) -> Objective:
    """Return the objective of the image's own score: view by view if the detector has views."""
    if isinstance(detector, Viewed):
        return ThroughViews(detector, rows=rows, at_once=at_once)
    return WholeScore(detector, rows=rows, at_once=at_once)


def device_of(detector: nn.Module) -> torch.device:
    """Return where a module is: its first parameter or buffer, or the CPU."""
    tensors = [*detector.parameters(), *detector.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def default_at_once(detector: nn.Module) -> int:
    """Return how many views, or images of a module that is no detector, are differentiated together."""
    if isinstance(detector, Detector):
        return detector.differentiable_views_at_once()
    return max(1, room(MOST_IMAGES_AT_ONCE, device_of(detector)))
