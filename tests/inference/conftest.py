"""A finished detector in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from puzzle_study.puzzles import PuzzleSet, transpositions

from ..core import tiny


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """``results/tiny/best`` with one detector of grey 16×16 images, ``3``, of 19 validation images."""
    folder = tmp_path / "results" / "tiny" / "best"
    save_detector(folder / "3")
    return folder


def save_detector(folder: Path, *, channels: int = 1, side: int = tiny.SIDE, normal_class: str = "3") -> None:
    """Write an untrained, calibrated detector."""
    detector = tiny.detector(PuzzleSet("jigsaw", 2, transpositions(4)), channels=channels, side=side)
    detector.calibrate(tiny.images(19, channels=channels, side=side, seed=7))
    folder.mkdir(parents=True)
    task = {"dataset": "digits", "normal_class": normal_class, "repeat": 0}
    content = {"task": task, "settings": tiny.settings().model_dump(mode="json", by_alias=True), "seed": 0}
    detector.save(folder, content)
