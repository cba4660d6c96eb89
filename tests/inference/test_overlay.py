"""Error maps make up the scores, and pictures show them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from puzzle_study import config
from puzzle_study.detectors import scoring
from puzzle_study.detectors.puzzle_ae.puzzles import PuzzleSet, drawn_permutations, transpositions
from puzzle_study.errors import UserError
from puzzle_study.inference import overlay

from ..core import tiny
from .pictures import write_many

SETS = {
    "four_pieces": (PuzzleSet("jigsaw", 2, transpositions(4)), 16),
    "nine_pieces": (PuzzleSet("jigsaw", 3, drawn_permutations(3, 0)), 18),
    "rotations": (PuzzleSet("rotation", 1, ((1,), (2,), (3,))), 16),
}


@pytest.mark.parametrize("name", SETS)
def test_the_mean_of_a_map_is_the_score(name: str) -> None:
    in_play, side = SETS[name]
    images = tiny.images(5, channels=3, side=side)
    for error, aggregation in itertools.product(scoring.NORMS, scoring.AGGREGATIONS):
        detector = tiny.detector(in_play, channels=3, side=side)
        detector.calibrate(tiny.images(3, channels=3, side=side, seed=1))
        detector = detector.read_by(config.Reading(error, aggregation))
        errors, maps = detector.maps(images)
        torch.testing.assert_close(errors, detector.error_matrix(images))
        assert maps.shape == (5, side, side)
        if error == "mse":
            torch.testing.assert_close(maps.mean((1, 2)), detector.scores(errors))
        elif aggregation != "avg":
            torch.testing.assert_close(maps.square().mean((1, 2)).sqrt(), detector.scores(errors))


def test_a_map_has_the_size_of_the_image_without_its_padding_and_no_images_have_none() -> None:
    for count in (0, 2):
        errors, maps = tiny.detector(SETS["nine_pieces"][0]).maps(tiny.images(count))
        assert (errors.shape, maps.shape) == ((count, 3), (count, 16, 16))


@pytest.mark.parametrize("squares", [False, True])
def test_a_picture_is_red_where_errors_are_and_untouched_elsewhere(squares: bool, tmp_path: Path) -> None:
    (path,) = write_many(tmp_path, 1, side=16)
    Image.fromarray(np.full((16, 16), 128, dtype=np.uint8)).save(path)
    errors = np.full((16, 16), 2.0, dtype=np.float32)
    errors[:8, :8] = 8 if not squares else 32
    overlay.write(path, tmp_path / "deep" / "map.png", errors, size=(16, 16), threshold=2.0, squares=squares)
    with Image.open(tmp_path / "deep" / "map.png") as picture:
        assert (picture.mode, picture.size, picture.format) == ("RGB", (512, 512), "PNG")
        shown = np.asarray(picture)
    assert (shown[300:, 300:] == 128).all()
    red, green, blue = shown[100, 100].tolist()
    assert red > 180 > 60 > max(green, blue)


def test_a_picture_has_the_proportions_of_the_image(tmp_path: Path) -> None:
    for width, height, shape in ((60, 30, (512, 256)), (20, 80, (128, 512)), (900, 1, (512, 1))):
        path = tmp_path / f"{width}.png"
        Image.fromarray(np.full((height, width), 128, dtype=np.uint8)).save(path)
        errors = np.full((16, 16), 2.0, dtype=np.float32)
        errors[:8, :8] = 8  # the upper left quarter
        overlay.write(path, tmp_path / "map.png", errors, size=(width, height), threshold=2.0, squares=False)
        with Image.open(tmp_path / "map.png") as picture:
            assert picture.size == shape
            shown = np.asarray(picture)
        assert (shown[shape[1] // 4, shape[0] // 4] != 128).any()
        assert (shown[-1, -1] == 128).all() or height == 1


def test_each_image_has_an_overlay_of_its_own_below_the_folder(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.png", "b/1.png", "b/3.jpg", "b/3.bmp"]
    found = overlay.targets([tmp_path / name for name in names], tmp_path / "maps")
    assert [str(path.relative_to(tmp_path / "maps")) for path in found.values()] == [
        "a/1.png",
        "a/2.png",
        "b/1.png",
        "b/3.jpg.png",
        "b/3.bmp.png",
    ]


def test_an_overlay_never_leaves_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = overlay.targets([Path("a/1.png"), Path("../b/2.png")], Path("maps"))
    assert list(found.values()) == [Path("maps/here/a/1.png"), Path("maps/b/2.png")]


def test_overlays_never_go_where_the_images_are(tmp_path: Path) -> None:
    paths = write_many(tmp_path / "images", 2)
    for folder in (tmp_path / "images", tmp_path):
        with pytest.raises(UserError, match=r"holds an image to be scored \(.*00\.png\); choose another folder"):
            overlay.targets(paths, folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (path,) = write_many(tmp_path, 1)
    (tmp_path / "taken").write_text("a file")
    ones = np.ones((16, 16), np.float32)
    with pytest.raises(UserError, match=r"map\.png cannot be written \(.*\); choose another --overlay"):
        overlay.write(path, tmp_path / "taken" / "map.png", ones, size=(16, 16), threshold=1, squares=False)
