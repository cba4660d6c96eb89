"""Images that have drifted are found, and the study's own normal images are not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from puzzle_study import config, datasets
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.nearest_neighbour import NearestNeighbour
from puzzle_study.detectors.puzzle_ae.puzzles import PuzzleSet, transpositions
from puzzle_study.inference import drift
from puzzle_study.inference.calibration import Calibration
from puzzle_study.inference.drift import FLAGGED, SCORE, Appearance, Change, Watch, looks, sentence
from puzzle_study.inference.foreseen import foreseen

from ..core import tiny


def test_looks_of_a_chessboard_and_of_a_flat_image_are_known() -> None:
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    images = torch.stack([board, torch.full((16, 16), 0.25)])[:, None].float()
    np.testing.assert_allclose(looks(images), [[0.5, 0.5, 4 / 0.5], [0.25, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_looks_are_those_of_single_images_and_a_lamp_does_not_move_sharpness(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tiny.images(7, channels=channels)
    whole = looks(images)
    monkeypatch.setattr(drift, "NUMBERS_AT_ONCE", 2 * images[0].numel())
    torch.testing.assert_close(looks(images), whole)
    torch.testing.assert_close(looks(images.float() / 255), whole)
    dimmed = looks(images.float() / 510)
    torch.testing.assert_close(dimmed, whole * torch.tensor([0.5, 0.5, 1]))


def test_an_appearance_keeps_64_images_that_span_all() -> None:
    kept = Appearance.of(torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16))
    assert len(kept.brightness) == len(kept.sharpness) == 64
    assert (kept.brightness[0], kept.brightness[-1]) == pytest.approx((0, 199 / 255), rel=1e-5)
    assert list(kept.brightness) == sorted(kept.brightness)


def digits() -> Iterator[tuple[Watch, Watch, Tensor]]:
    """A watch of normal test images, one of the same under half the light, and the images."""
    for number in range(10):
        for seed in range(3):
            data = config.Data(name="digits", normal_classes=(number,), split_seed=seed)
            task = datasets.load_task(data, datasets.task_specs(data)[0])
            context = Context(Shape(*task.train.shape[1:]), 0, tiny.CPU, "float32", "digits")
            detector = NearestNeighbour.build(NearestNeighbour.Settings(), context)
            detector.fit(task.train, Run())
            detector.calibrate(task.validation)
            appearance, calibration = Appearance.of(task.validation), Calibration.of(detector)
            normal = task.test[~task.labels]
            watches = []
            for images in (normal, normal // 2):
                watch = Watch(calibration, appearance)
                watch.add(images, detector.scores(detector.error_matrix(images)).double().numpy())
                watches.append(watch)
            yield watches[0], watches[1], normal


def test_normal_test_images_have_not_drifted_and_under_half_the_light_they_have() -> None:
    for watch, dimmed, normal in digits():
        assert watch.changes(0.05) == []
        changes = {change.what: change for change in dimmed.changes(0.05)}
        assert {"brightness", "contrast"} <= changes.keys()
        assert "sharpness" not in changes
        assert changes["brightness"].now == pytest.approx(changes["brightness"].before / 2, rel=0.2)
        assert "lamp, camera or focus" in sentence(list(changes.values()), len(normal))


def test_the_test_of_the_share_flagged_is_exact() -> None:
    """That 6 new scores are all above 19 others is 1 of (25 over 6) possible orders; Holm doubles the smaller p."""
    watch = Watch(Calibration(np.arange(19.0)), None)
    watch.add(torch.empty(0), np.full(6, 20.0))
    score, flagged = watch.changes(0.05)
    assert (score.what, flagged.what) == (SCORE, FLAGGED)
    assert flagged.p == pytest.approx(2 / math.comb(25, 6), rel=1e-6)
    assert score.p == pytest.approx(2 / math.comb(25, 6), rel=1e-6)
    few = Watch(Calibration(np.arange(19.0)), None)
    few.add(torch.empty(0), np.full(2, 20.0))
    assert few.changes(0.05) == []


def test_more_flagged_images_that_look_as_ever_may_be_anomalies_and_silent_detectors_are_a_drift() -> None:
    calibration = Calibration(np.linspace(0.9, 1.1, 100))
    told = {}
    for name, score in {"rose": 2.0, "fell": 0.1}.items():
        watch = Watch(calibration, None)
        for _ in range(3):
            watch.add(torch.empty(0), np.full(20, score))
        told[name] = watch.changes(0.05)
    assert [change.what for change in told["rose"]] == [SCORE, FLAGGED]
    assert [change.what for change in told["fell"]] == [SCORE]
    assert "share flagged 100 % instead of 5 %" in sentence(told["rose"], 60)
    assert "many of them are anomalies" in sentence(told["rose"], 60)
    assert "score 0.1 instead of 1 (× 0.1, p < 1e-06)" in sentence(told["fell"], 60)
    assert "many of them are anomalies" not in sentence(told["fell"], 60)


def test_a_difference_that_is_significant_but_small_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    watch = Watch(Calibration(np.sort(rng.normal(size=5000))), None)
    watch.add(torch.empty(0), rng.normal(size=5000) + 0.2)
    assert watch.changes(0.05) == []
    monkeypatch.setattr(drift, "LEAST_DISTANCE", 0)
    assert [change.what for change in watch.changes(0.05)] == [SCORE]


def test_nothing_is_compared_without_images() -> None:
    assert Watch(Calibration(np.ones(3)), None).changes(0.05) == []


def test_a_change_says_its_p() -> None:
    assert str(Change("contrast", 0.2, 0.1, 2e-4)) == "contrast 0.1 instead of 0.2 (× 0.5, p 0.0002)"


TABLE = """trial,aggregation,error,corruption,severity,value,unit,auroc,flagged_normal,flagged_anomalous
a,max,l2,none,0,,,0.98,0.04,0.62
a,max,l2,dim_lamp,3,0.8,factor,0.97,0.01,0.3
a,max,l2,dim_lamp,5,0.5,factor,0.975,0.0,0.0
a,avg,l2,dim_lamp,5,0.5,factor,0.1,0.1,0.1
b,max,l2,dim_lamp,5,0.5,factor,0.2,0.2,0.2
a,max,l2,brighter,4,0.2,pixel value,0.9,0.7,
a,max,l2,defocus_blur,3,1,pixels,,0.5,0.6
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"brightness": (0.3, 0.16), "contrast": (0.3, 0.15)},
            "dim_lamp 0.5 (severity 5): AUROC 97.5, 0 % of normal and 0 % of anomalous images flagged",
        ),
        ({"brightness": (0.3, 0.48)}, "brighter 0.2 (severity 4): AUROC 90.0, 70 % of normal images flagged"),
        ({"sharpness": (2.0, 1.0)}, "defocus_blur 1 (severity 3): 50 % of normal and 60 % of anomalous"),
        ({"sharpness": (1.0, 2.0)}, ""),
        ({SCORE: (1.0, 2.0)}, ""),
    ],
)
def test_what_the_study_measured_of_such_a_change_is_said(
    changes: dict[str, tuple[float, float]], said: str, tmp_path: Path
) -> None:
    table, detector = tmp_path / "corruptions.csv", tiny.detector(PuzzleSet("jigsaw", 2, transpositions(4)))
    found = [Change(what, *pair, 1e-9) for what, pair in changes.items()]
    assert foreseen(found, table, "a", detector) == ""
    table.write_text(TABLE, encoding="utf-8")
    told = foreseen(found, table, "a", detector)
    assert said in told
    assert bool(told) == bool(said)
    assert not said or "without a change AUROC 98.0, 4 % of normal and 62 % of anomalous" in told
    assert foreseen(found, table, "c", detector) == ""
    table.write_text("trial\na\n", encoding="utf-8")
    assert foreseen(found, table, "a", detector) == ""
