"""PatchCore and PaDiM, held against slow and obvious twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from sklearn.datasets import load_digits

from puzzle_study import score
from puzzle_study.detectors import files, patchcore, patches
from puzzle_study.detectors.padim import RIDGE
from puzzle_study.errors import UserError
from puzzle_study.statistics import metrics
from tests.detectors.test_features import built, fitted, images

pytestmark = pytest.mark.slow


def test_it_finds_another_digit() -> None:
    digits = load_digits()
    x = torch.from_numpy((digits.images * 255 / 16).round().astype(np.uint8))[:, None]
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    threes = np.flatnonzero(digits.target == 3)
    detector = fitted("patchcore", x[threes[:60]], input_size=32)
    tested = np.concatenate([threes[60:100], np.flatnonzero(digits.target == 8)[:40]])
    scores = detector.scores(detector.error_matrix(x[tested]))
    assert metrics.auroc(scores.numpy(), digits.target[tested] == 8) > 0.9


@pytest.mark.parametrize("candidates", [5, 2048])
def test_the_coreset_is_the_greedy_one(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore, "CANDIDATES", candidates)
    point_MD = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    chosen = patchcore.farthest_first(point_MD, 12, torch.Generator().manual_seed(1)).tolist()
    expected = [int(torch.randint(60, (1,), generator=torch.Generator().manual_seed(1)))]
    while len(expected) < 12:
        nearest = [min(float((point - point_MD[one]).norm()) for one in expected) for point in point_MD]
        expected.append(int(np.argmax(nearest)))
    assert chosen == expected


def test_the_score_of_patchcore_is_the_weighted_distance_of_the_worst_patch() -> None:
    """Equations 6 and 7 of the paper, patch by patch."""
    detector = fitted("patchcore", images(6), coreset=0.2, neighbours=4)
    x_1CHW = images(1, 1).float() / 255
    with torch.no_grad():
        patch_PD = detector.patches(detector.features(x_1CHW))[0].double()
    bank = detector.bank_BD.double()
    assert len(bank) == round(0.2 * 6 * 16)
    distance = torch.cdist(patch_PD, bank)
    worst = int(distance.min(1).values.argmax())
    nearest = int(distance[worst].argmin())
    near = torch.cdist(bank[nearest][None], bank)[0].topk(4, largest=False).indices
    shares = np.exp(distance[worst, near].numpy())
    weight = 1 - np.exp(float(distance[worst, nearest])) / shares.sum()
    expected = weight * float(distance[worst, nearest])
    assert float(detector.errors(x_1CHW)) == pytest.approx(expected, rel=1e-4)


def test_patches_know_their_neighbourhood() -> None:
    detector = built("patchcore")
    maps = [torch.randn(1, 2, 4, 4), torch.randn(1, 3, 2, 2)]
    patch_PD = detector.patches(maps)[0]
    assert patch_PD.shape == (16, 5)
    torch.testing.assert_close(patch_PD[5, :2], maps[0][0, :, 0:3, 0:3].mean((1, 2)))
    torch.testing.assert_close(patch_PD[0, :2], maps[0][0, :, 0:2, 0:2].sum((1, 2)) / 9)


def test_the_distance_of_padim_is_the_mahalanobis_distance_of_each_position() -> None:
    training = images(30)
    detector = fitted("padim", training, channels=10)
    with torch.no_grad():
        known = detector._drawn(detector.features(training.float() / 255)).double().numpy()
        x_1CHW = images(1, 1).float() / 255
        new = detector._drawn(detector.features(x_1CHW))[0].double().numpy()
        _, distance_1hw = detector.distances(x_1CHW)
    assert len(set(detector.drawn_D.tolist())) == 10
    for position in (0, 9, 63):
        covariance = np.cov(known[:, :, position], rowvar=False) + RIDGE * np.eye(10)
        mean = known[:, :, position].mean(0)
        expected = mahalanobis(new[:, position], mean, np.linalg.inv(covariance))
        assert float(distance_1hw.flatten()[position]) == pytest.approx(expected, rel=1e-3)


def test_maps_are_smoothed_as_scipy_does() -> None:
    distance_1hw = torch.zeros(1, 112, 112)
    distance_1hw[0, 40:50, 60:70] = 1
    expected = gaussian_filter(distance_1hw[0].numpy(), 4 * 112 / 224, mode="nearest", truncate=4)
    np.testing.assert_allclose(patches.upsampled(distance_1hw, 112, 112)[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_maps_show_where_the_anomaly_is(name: str) -> None:
    ramp = torch.linspace(40, 200, 128).expand(1, 128, 128)
    training = (ramp + 4 * torch.randn(12, 1, 128, 128, generator=torch.Generator().manual_seed(0))).byte()
    detector = fitted(name, training)
    image = training[:1].clone()
    image[0, 0, 72:96, 16:40] = images(1, channels=1, side=24)[0, 0]
    _, map_1HW = detector.maps(image)
    y, x = divmod(int(map_1HW.argmax()), 128)
    assert (64 <= y < 104, 8 <= x < 48) == (True, True)


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_a_saved_detector_draws_its_maps_over_images(name: str, tmp_path: Path) -> None:
    detector = fitted(name, images(6))
    (tmp_path / "detector").mkdir()
    files.save(detector, tmp_path / "detector", {})
    Image.fromarray(images(1, 3)[0].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    arguments = [tmp_path / "detector", tmp_path / "photo.png", "--overlay", tmp_path / "maps"]
    result = CliRunner().invoke(score.main, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "maps" / "photo.png").exists()


def test_a_detector_without_maps_says_so() -> None:
    with pytest.raises(UserError, match="kNN on features has no anomaly maps"):
        fitted("feature_knn", images(3)).maps(images(1))
