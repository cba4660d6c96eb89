"""The test images evaluated during training or attacked, the same for every detector of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle_study.datasets.protocols import both_sides, draw_sides, stratified

if TYPE_CHECKING:
    from torch import Tensor

    from puzzle_study.datasets import Task


def chosen_images(task: Task, max_images: int | None, *, balanced: bool = False) -> tuple[Tensor, Tensor]:
    """Return a task's test images for evaluation or attack, and their labels.

    At most ``max_images``, at least 2, are drawn in proportion from each class; None: all. If the test has normal and
    anomalous images, the choice has both; ``balanced`` takes equally many of each, at most half of ``max_images``. The
    choice depends only on the test images.
    """
    normal, anomalous = int((~task.labels.bool()).sum()), int(task.labels.sum())
    if balanced and min(normal, anomalous) > 0:
        return chosen_of_each_side(task, min(normal, anomalous, (max_images or len(task.test)) // 2 or 1))
    if max_images is None or max_images >= len(task.test):
        return task.test, task.labels
    if max_images < len(set(task.test_classes)):
        index = both_sides(task.test_classes, task.labels.numpy(), max_images, seed=0)
    else:
        # Every class keeps an image, so both sides do. Dividing by sides first would choose other images than those
        # of finished results.
        index = stratified(task.test_classes, max_images, seed=0)
    return task.test[index], task.labels[index]


def chosen_of_each_side(task: Task, max_images: int) -> tuple[Tensor, Tensor]:
    """Return up to ``max_images`` normal test images of a task, as many anomalous ones, and their labels."""
    index = draw_sides(task.test_classes, task.labels.numpy(), (max_images, max_images), seed=0)
    return task.test[index], task.labels[index]
