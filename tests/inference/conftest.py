"""A finished detector in files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from puzzle_study.detectors import files
from puzzle_study.detectors.puzzle_ae.puzzles import PuzzleSet, transpositions

from ..core import tiny
from .pictures import write_many


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """``results/tiny/best`` with one detector of grey 16×16 images, ``3``, of 19 validation images."""
    folder = tmp_path / "results" / "tiny" / "best"
    save_detector(folder / "3")
    return folder


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``open/locked``, relative, with one image: a folder that may not be read, although it is root who tests.

    Beside ``open`` is ``readable``, likewise with one image.
    """
    monkeypatch.chdir(tmp_path)
    folder = Path("open/locked")
    write_many(folder, 1)
    write_many(Path("readable"), 1)
    tmp_path.chmod(0o755)
    folder.chmod(0)
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    yield folder
    if privileged:
        os.seteuid(0)
    folder.chmod(0o755)


def save_detector(folder: Path, *, channels: int = 1, side: int = tiny.SIDE, normal_class: str = "3") -> None:
    """Write an untrained, calibrated detector."""
    detector = tiny.detector(PuzzleSet("jigsaw", 2, transpositions(4)), channels=channels, side=side)
    detector.calibrate(tiny.images(19, channels=channels, side=side, seed=7))
    folder.mkdir(parents=True)
    task = {"dataset": "digits", "normal_class": normal_class, "repeat": 0}
    content = {"task": task, "settings": tiny.settings().model_dump(mode="json", by_alias=True), "seed": 0}
    files.save(detector, folder, content)
