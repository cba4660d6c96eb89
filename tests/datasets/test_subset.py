"""Subsets of test images: both sides are there, however few are drawn."""

from __future__ import annotations

import pytest
import torch

from puzzle_study.datasets import Task, TaskSpec, stratified
from puzzle_study.datasets.subset import chosen_images, chosen_of_each_side

CLASSES = tuple("0123456789") * 12
"""Of a task whose normal class is 8: 12 normal images, 108 anomalous ones."""


def task(classes: tuple[str, ...] = CLASSES, *, normal: str = "8") -> Task:
    """A task whose test images are numbered."""
    number_NCHW = torch.arange(len(classes), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    labels = torch.tensor([name != normal for name in classes])
    none = number_NCHW[:0]
    return Task(
        TaskSpec("digits", normal), none, none, number_NCHW, labels, classes, tuple(map(str, range(len(classes))))
    )


@pytest.mark.parametrize("count", [2, 5, 9, 10, 64])
@pytest.mark.parametrize("normal", ["0", "8"])
def test_normal_and_anomalous_images_are_both_chosen_however_few(count: int, normal: str) -> None:
    images, labels = chosen_images(task(normal=normal), count)
    assert len(images) == count
    assert 0 < int(labels.sum()) < count
    assert torch.equal(labels, torch.tensor([CLASSES[int(image)] != normal for image in images]))


@pytest.mark.parametrize("count", [10, 11, 64, 119])
def test_where_each_class_has_an_image_they_are_drawn_by_class(count: int) -> None:
    images, _ = chosen_images(task(), count)
    assert images.flatten().tolist() == stratified(CLASSES, count, seed=0).tolist()


@pytest.mark.parametrize("count", [None, 120, 500])
def test_all_are_chosen_where_no_fewer_are_asked_for(count: int | None) -> None:
    images, labels = chosen_images(task(), count)
    assert (len(images), len(labels)) == (120, 120)


@pytest.mark.parametrize(("count", "normal", "anomalous"), [(2, 2, 2), (10, 10, 10), (64, 12, 64), (500, 12, 108)])
def test_of_each_side_as_many_are_chosen_as_there_are_up_to_the_count(count: int, normal: int, anomalous: int) -> None:
    images, labels = chosen_of_each_side(task(), count)
    assert (int((~labels).sum()), int(labels.sum())) == (normal, anomalous)
    assert torch.equal(labels, torch.tensor([CLASSES[int(image)] != "8" for image in images]))
    if count >= 9:
        assert {CLASSES[int(image)] for image in images} == set(CLASSES)
