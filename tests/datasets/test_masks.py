"""Masks of test images: found by name, scaled as images are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from puzzle_study import datasets
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.errors import UserError
from tests.datasets.conftest import Layouts, section


def task(layouts: Layouts) -> Task:
    return datasets.load_task(
        section("folder", root=str(layouts.root / "screws"), size=16), TaskSpec("folder", "screws")
    )


def drawn(layouts: Layouts, name: str, white: int = 255) -> None:
    """A mask of 32×32 pixels whose lower right quarter is anomalous."""
    pixels = np.zeros((32, 32), dtype=np.uint8)
    pixels[16:, 16:] = white
    path = layouts.root / "screws" / "ground_truth" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def unmasked(layouts: Layouts) -> Layouts:
    folder = layouts.category(layouts.root / "screws")
    for path in (folder / "ground_truth").rglob("*.png"):
        path.unlink()
    for path in (folder / "ground_truth").iterdir():
        path.rmdir()
    (folder / "ground_truth").rmdir()
    return layouts


def test_without_masks_there_are_none(unmasked: Layouts) -> None:
    assert task(unmasked).masks is None


@pytest.mark.parametrize(("name", "white"), [("hole/002_mask.png", 255), ("hole/002.png", 1)])
def test_a_mask_is_that_of_the_image_of_its_name(name: str, white: int, unmasked: Layouts) -> None:
    drawn(unmasked, name, white)
    loaded = task(unmasked)
    assert loaded.masks is not None
    expected_HW = torch.zeros(16, 16, dtype=torch.int8)
    expected_HW[8:, 8:] = 1
    for place, kind, mask_HW in zip(loaded.test_names, loaded.test_classes, loaded.masks, strict=True):
        if place == "test/hole/002.png":
            assert torch.equal(mask_HW, expected_HW)
        else:
            assert mask_HW.unique().tolist() == [0 if kind == "good" else -1]


def test_the_images_stay_what_they_were(unmasked: Layouts) -> None:
    """A mask that is added later changes no image, so that finished trials stay."""
    data = section("folder", root=str(unmasked.root / "screws"), size=16)
    before = datasets.fingerprint(data)
    drawn(unmasked, "hole/002_mask.png")
    assert datasets.fingerprint(data) == before


def test_a_damaged_mask_is_named(unmasked: Layouts) -> None:
    drawn(unmasked, "hole/002_mask.png")
    (unmasked.root / "screws" / "ground_truth" / "hole" / "002_mask.png").write_text("x")
    with pytest.raises(UserError, match=r"002_mask\.png is not a readable image"):
        task(unmasked)
