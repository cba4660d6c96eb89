"""A few normal images set the threshold anew: what is promised holds, and the detector that was given stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import puzzle_study
from puzzle_study.detectors.files import load_detector, read_description
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration, fewest_images

from ..core import tiny
from .pictures import pixels, write_damaged, write_many
from .test_score_command import score


def test_the_new_detector_has_the_new_threshold_and_the_old_one_stays(best: Path, tmp_path: Path) -> None:
    old = {path.name: path.read_bytes() for path in (best / "3").iterdir()}
    paths, target = write_many(tmp_path / "new", 20), tmp_path / "elsewhere" / "renewed"
    write_damaged(tmp_path / "new")
    said = score(best, tmp_path / "new", "--recalibrate", target)
    assert said.stdout == ""
    assert said.stderr.count("not read: ") == 3
    assert f"{target}: threshold set by 20 images" in said.stderr
    assert "4.8 % on average, and with 95 % confidence at most 14 %" in said.stderr
    assert {path.name: path.read_bytes() for path in (best / "3").iterdir()} == old
    assert sorted(path.name for path in target.iterdir()) == sorted(old)
    detector, renewed = (load_detector(folder, device=tiny.CPU) for folder in (best / "3", target))
    detector.calibrate(torch.from_numpy(np.stack([pixels(number) for number in range(20)])[:, None]))
    torch.testing.assert_close(renewed.validation_NK, detector.validation_NK, rtol=0, atol=0)
    about = read_description(target)
    assert about["recalibrated"] | {"at": ""} == {"at": "", "images": 20, "fpr": 0.05}
    assert about["recalibrated"]["at"].endswith("+00:00")
    assert about["seed"] == 0
    again = score(target, *paths)
    assert "0 of 20 images flagged" in again.stderr
    assert "by 20 validation images" in again.stderr
    assert "warning" not in again.stderr


def test_a_lamp_that_dims_is_told_until_the_detector_is_recalibrated(best: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "bright", 30)
    (tmp_path / "dim").mkdir()
    for number in range(30, 60):
        Image.fromarray(pixels(number) // 2).save(tmp_path / "dim" / f"{number}.png")
    score(best, tmp_path / "bright", "--recalibrate", tmp_path / "one")
    warned = score(tmp_path / "one", tmp_path / "dim").stderr
    assert warned.count("warning: these 30 images differ from the validation images: brightness ") == 1
    assert "--recalibrate" in warned
    score(tmp_path / "one", tmp_path / "dim", "--recalibrate", tmp_path / "two")
    assert "warning" not in score(tmp_path / "two", tmp_path / "dim").stderr


@pytest.mark.parametrize(
    ("count", "words", "sentence"),
    [
        (10, [], "10 images cannot hold a false-positive rate of 5 %; give at least 19, or ask for 9.09 % or more"),
        (10, ["--fpr", "0"], "10 images cannot hold a false-positive rate of 0 %; ask for 9.09 % or more"),
        (0, [], "0 images cannot hold"),
        (20, ["--output", "table.csv"], "leave out --output, --overlay, --export"),
        (20, ["--export", "model.onnx"], "leave out --output, --overlay, --export"),
        (20, ["--watch"], "--export-mlflow, --watch"),
    ],
)
def test_what_cannot_be_recalibrated_is_one_sentence_and_nothing_is_written(
    count: int, words: list[str], sentence: str, best: Path, tmp_path: Path
) -> None:
    write_many(tmp_path / "new", count)
    write_damaged(tmp_path / "new")
    said = score(best, tmp_path / "new", "--recalibrate", tmp_path / "renewed", *words, code=2)
    assert sentence in said.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "results"]


def test_a_folder_that_exists_is_left_alone(best: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "new", 20)
    old = (best / "3" / "detector.json").read_bytes()
    assert "exists; name a new folder" in score(best, tmp_path / "new", "--recalibrate", best / "3", code=2).stderr
    assert (best / "3" / "detector.json").read_bytes() == old


def test_images_that_all_score_the_same_set_no_threshold(best: Path, tmp_path: Path) -> None:
    (tmp_path / "same").mkdir()
    for number in range(20):
        Image.fromarray(pixels(0)).save(tmp_path / "same" / f"{number}.png")
    said = score(best, tmp_path / "same", "--recalibrate", tmp_path / "renewed", code=2)
    assert "all the same" in said.stderr


def test_an_appearance_that_is_none_is_one_sentence(best: Path, tmp_path: Path) -> None:
    path = best / "3" / "detector.json"
    write_many(tmp_path / "images", 1)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"appearance": {"brightness": [-1]}}))
    assert "an appearance that is not one" in score(best, tmp_path / "images", code=2).stderr


def test_an_estimator_is_recalibrated_without_training_and_says_so_when_saved(best: Path, tmp_path: Path) -> None:
    found, images = puzzle_study.load(best), tiny.images(24, seed=3).numpy()
    before = found.score_samples(images)
    assert found.recalibrate(images) is found
    scores = found.score_samples(images)
    assert found.offset_ == scores.min()
    assert not np.array_equal(scores, before)
    found.save(tmp_path / "saved")
    loaded = puzzle_study.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.score_samples(images), scores)
    loaded.save(tmp_path / "again")
    assert read_description(tmp_path / "again")["recalibrated"]["images"] == 24
    np.testing.assert_array_equal(puzzle_study.load(best).score_samples(images), before)
    with pytest.raises(UserError, match="give at least 19"):
        found.recalibrate(images[:18])


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.05, 1 / 30, 0.01])
def test_so_many_images_are_the_fewest_that_hold_a_rate(rate: float) -> None:
    few = fewest_images(rate)
    assert 1 / (few + 1) <= rate + 1e-9
    assert 1 / few > rate + 1e-9


def test_what_is_promised_with_confidence_holds_in_so_many_of_the_sets() -> None:
    """Of uniform scores the rate of false alarms is 1 - threshold; 4,000 sets, four standard errors."""
    for count, rate in ((20, 0.05), (60, 0.1)):
        sets = np.random.default_rng(0).uniform(size=(4000, count))
        calibrations = [Calibration(np.sort(one)) for one in sets]
        rates = np.array([1 - one.threshold(rate) for one in calibrations])
        assert (rates <= calibrations[0].highest_rate(rate)).mean() == pytest.approx(0.95, abs=4 * 0.0035)
        assert rates.mean() == pytest.approx(calibrations[0].expected_rate(rate), abs=4 * rates.std() / 63)


def test_the_promises_that_the_page_on_drift_lists_are_those_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "drift.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" %") for cell in line.split("|")[1:-1]] for line in page.splitlines() if "% |" in line]
    assert len(rows) == 6
    for images, rate, average, most in rows:
        calibration = Calibration(np.arange(float(images)))
        assert 100 * calibration.expected_rate(float(rate) / 100) == pytest.approx(float(average), abs=0.1)
        assert 100 * calibration.highest_rate(float(rate) / 100) == pytest.approx(float(most), abs=0.06)
