"""A detector that sees nothing fails its trial instead of having a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from puzzle_study.config import DetectorSettings, Reading
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.detectors.base import Context, Detector, Run, Shape, TrainingDiverged
from puzzle_study.detectors.devices import Precision
from puzzle_study.trials import run


class Blind(Detector):
    """Its errors are those of a function, whatever that looks at."""

    name, title, source = "blind", "blind", "a test"

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(shape=Shape(1, 16, 16))
        self.function = function

    @classmethod
    def build(cls, settings: DetectorSettings, context: Context) -> Blind:
        raise NotImplementedError

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Learn nothing."""

    def errors(self, x_NCHW: Tensor) -> Tensor:
        return self.function(x_NCHW)[:, None]

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Blind:
        raise NotImplementedError


IMAGES = torch.randint(0, 256, (20, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
DRAWS = torch.Generator().manual_seed(1)


def checked(function: Callable[[Tensor], Tensor], images: Tensor = IMAGES) -> None:
    detector = Blind(function)
    detector.calibrate(images)
    task = Task(TaskSpec("x", "y"), images, images, images, torch.zeros(len(images)).bool(), (), ())
    run._check({"validation": detector.validation_NK.numpy()}, task, 0)
    run._check_reaction(detector, images)


def test_errors_that_are_constant_are_a_collapse() -> None:
    with pytest.raises(TrainingDiverged, match="has collapsed: 20 different validation images have the same errors"):
        checked(lambda x_NCHW: torch.ones(len(x_NCHW)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x_NCHW: torch.arange(len(x_NCHW)).float(),
        lambda x_NCHW: torch.rand(len(x_NCHW), generator=DRAWS),
        lambda x_NCHW: torch.rand(len(x_NCHW), generator=torch.Generator().manual_seed(2)),
    ],
    ids=["place in the batch", "chance", "the same chance each time"],
)
def test_scores_that_do_not_follow_the_image_are_a_collapse(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(TrainingDiverged, match="does not react to the image: 20 validation images"):
        checked(function)


def test_a_detector_that_looks_at_the_image_passes() -> None:
    checked(lambda x_NCHW: x_NCHW.mean((1, 2, 3)))
    checked(lambda x_NCHW: x_NCHW.mean((1, 2, 3)) + 1e-3 * torch.rand(len(x_NCHW), generator=DRAWS))


def test_equal_and_few_images_say_nothing() -> None:
    checked(lambda x_NCHW: x_NCHW.mean((1, 2, 3)), IMAGES[:1].repeat(20, 1, 1, 1))
    checked(lambda x_NCHW: torch.arange(len(x_NCHW)).float(), IMAGES[:2])
