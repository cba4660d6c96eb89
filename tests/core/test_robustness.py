"""The attack at the end of a training: on which images its two numbers rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from puzzle_study import config
from puzzle_study.attacks.running import run_attacks
from puzzle_study.criteria.bank import make_pseudo_anomalies
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.trials import robust

from . import tiny


def test_as_many_normal_images_are_attacked_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = tuple("0123456789") * 6
    labels = torch.tensor([name != "3" for name in classes])
    task = Task(
        TaskSpec("digits", "3"),
        tiny.images(2),
        tiny.images(7, seed=1),
        tiny.images(len(classes), seed=2),
        labels,
        classes,
        tuple(map(str, range(len(classes)))),
    )
    settings = tiny.settings({"puzzle.permutations": "two_swapped"})
    detector = tiny.detector(tiny.puzzle_set(settings))
    detector.calibrate(task.validation)
    pseudo = make_pseudo_anomalies(task.validation, seed=0)
    matrices = {
        "validation": task.validation,
        "pseudo": pseudo.images,
        "test": task.test,
    }
    errors = {name: detector.error_matrix(images).numpy() for name, images in matrices.items()}
    attacked: list[Tensor] = []

    def watched(read: Any, images: Tensor, labels_N: Tensor, *more: Any, **settings: Any) -> Any:
        attacked.append(images[~labels_N])
        return run_attacks(read, images, labels_N, *more, **settings)

    monkeypatch.setattr(robust, "run_attacks", watched)
    found = robust.measure_robustness(detector, task, errors, pseudo.kinds, config.Robust(max_images=5))
    normal = {bytes(image.numpy()) for image in task.test[~labels]}
    for images in attacked:
        assert len(images) == 5 + 5, "of the six normal test images and the seven validation images"
        assert sum(bytes(image.numpy()) in normal for image in images) == 5
    assert len(attacked) == len(found) == 6
    assert all(0 <= value <= 1 for values in found.values() for value in values.values())
