"""Anomaly maps against masks, as a trial measures them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.detectors.base import Context, Run, Shape, Traits
from puzzle_study.detectors.scoring import READINGS
from puzzle_study.trials import locating
from tests.detectors.mean_image import MeanImage, MeanImageSettings


@pytest.fixture
def task() -> Task:
    """Gray images; the last three have a white square, and the last one no mask of it."""
    images = torch.full((8, 1, 16, 16), 100, dtype=torch.uint8)
    images += torch.randint(0, 9, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    masks = torch.zeros(6, 16, 16, dtype=torch.int8)
    for number in (3, 4, 5):
        images[number, :, 4:8, 4:8] = 255
        masks[number, 4:8, 4:8] = 1
    masks[5] = -1
    labels = torch.arange(6) >= 3
    return Task(TaskSpec("x", "y"), images[:3], images[6:], images[:6], labels, (), (), masks)


def fitted(task: Task) -> Any:
    settings = MeanImageSettings()
    detector = MeanImage.build(settings, Context(Shape(1, 16, 16), 0, torch.device("cpu"), "float32"))
    detector.fit(task.train, Run())
    detector.calibrate(task.validation)
    return detector


def test_maps_that_show_the_anomaly_have_full_marks_under_every_reading(task: Task) -> None:
    found = locating.measure_maps(fitted(task), task)
    assert set(found) == set(READINGS)
    assert all(values == {"pixel_auroc": 1.0, "aupro": 1.0} for values in found.values())


def test_an_image_without_a_mask_is_left_out(task: Task) -> None:
    assert task.masks is not None
    moved = task.masks.clone()
    moved[5] = 0  # now its white square counts as normal
    (first, *_) = locating.measure_maps(fitted(task), replace(task, masks=moved)).values()
    assert first["pixel_auroc"] is not None
    assert first["pixel_auroc"] < 1


def test_without_masks_or_maps_there_is_nothing(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locating.measure_maps(fitted(task), replace(task, masks=None)) == {}
    monkeypatch.setattr(MeanImage, "traits", Traits(epochs=True))
    assert locating.measure_maps(fitted(task), task) == {}


def test_of_too_many_pixels_every_nth_image_is_taken(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "MOST_PIXELS", 3 * 16 * 16)
    taken: list[int] = []
    maps = MeanImage.maps

    def counting(self: MeanImage, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        taken.append(len(images_NCHW))
        return maps(self, images_NCHW)

    monkeypatch.setattr(MeanImage, "maps", counting)
    locating.measure_maps(fitted(task), task)
    assert taken == [3]
