"""Masks of the gallery."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.study.gallery import _mask

KNOWN = torch.tensor([[0, 1], [1, 0]], dtype=torch.int8)


@pytest.mark.parametrize(
    ("index", "masks", "expected"),
    [
        (0, None, [[0, 0], [0, 0]]),
        (1, None, [[128, 128], [128, 128]]),
        (1, torch.stack((torch.zeros_like(KNOWN), KNOWN)), [[0, 255], [255, 0]]),
        (1, torch.stack((torch.zeros_like(KNOWN), torch.full_like(KNOWN, -1))), [[128, 128], [128, 128]]),
        (2, None, [[0, 0], [0, 0]]),
    ],
    ids=["normal", "no masks", "a mask", "no mask of this one", "validation"],
)
def test_a_mask_is_white_where_the_anomaly_is_and_gray_where_nobody_says(index: int, masks: Any, expected: Any) -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    task = Task(TaskSpec("x", "y"), images, images, images, torch.tensor([False, True]), (), (), masks)
    assert _mask(task, index, images[0])[0].tolist() == expected
