"""Corruptions: what all have in common, and what each is by its definition."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from puzzle_study.corruptions.base import SEVERITIES
from puzzle_study.corruptions.corrupt import VALUES_AT_ONCE, corrupt
from puzzle_study.corruptions.kinds.geometry import moved
from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.errors import UserError

GREY, COLOUR = (1, 28, 28), (3, 27, 33)


def pictures(shape: tuple[int, int, int], count: int = 6) -> Tensor:
    """Return smooth pictures with bright and dark places."""
    channels, height, width = shape
    noise = np.random.default_rng(0).normal(size=(count, channels, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 1.5, 1.5))
    return torch.from_numpy(np.clip(128 + 300 * smooth, 0, 255).astype(np.uint8))


def shapes_of(kind: str) -> list[tuple[int, int, int]]:
    allowed = CORRUPTIONS[kind].channels
    return [shape for shape in (GREY, COLOUR) if not allowed or shape[0] in allowed]


@pytest.mark.parametrize("kind", CORRUPTIONS)
class TestEveryKind:
    def test_none_is_the_image_itself(self, kind: str) -> None:
        for shape in shapes_of(kind):
            images = pictures(shape)
            assert torch.equal(corrupt(images, kind, 0), images)
            assert torch.equal(corrupt(images / 255, kind, 0), images)

    def test_images_change_more_with_each_severity(self, kind: str) -> None:
        for shape in shapes_of(kind):
            images = pictures(shape)
            found = [corrupt(images, kind, severity) for severity in SEVERITIES]
            assert all(one.shape == images.shape and one.dtype == torch.uint8 for one in found)
            changes = [float((one.float() - images.float()).square().mean()) for one in found]
            assert changes[0] > 0
            assert changes == sorted(set(changes)), changes

    def test_a_seed_gives_the_same_images_whatever_their_number_and_type(self, kind: str) -> None:
        for shape in shapes_of(kind):
            images = pictures(shape)
            found = corrupt(images, kind, 3, seed=1)
            assert torch.equal(corrupt(images, kind, 3, seed=1), found)
            assert torch.equal(corrupt(images[:4], kind, 3, seed=1), found[:4])
            assert torch.equal(corrupt(images / 255, kind, 3, seed=1), found)

    def test_another_seed_changes_what_draws(self, kind: str) -> None:
        images = pictures(shapes_of(kind)[-1], count=12)
        same = torch.equal(corrupt(images, kind, 3, seed=1), corrupt(images, kind, 3, seed=2))
        assert same != ("drawn" in CORRUPTIONS[kind].does or kind in ("gaussian_noise", "shot_noise"))

    def test_its_values_go_away_from_neutral(self, kind: str) -> None:
        corruption = CORRUPTIONS[kind]
        distances = [abs(value - corruption.neutral) for value in corruption.values]
        assert len(corruption.values) == len(SEVERITIES)
        assert distances[0] > 0
        assert distances == sorted(set(distances))


def test_no_image_and_a_black_image_survive() -> None:
    for kind in CORRUPTIONS:
        shape = shapes_of(kind)[0]
        assert corrupt(torch.empty(0, *shape, dtype=torch.uint8), kind, 3).shape == (0, *shape)
        black = corrupt(torch.zeros(2, *shape, dtype=torch.uint8), kind, 5)
        assert kind in ("brighter", "gaussian_noise", "dead_pixels", "occlusion") or not black.any()


def test_images_are_the_same_in_pieces_that_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(COLOUR)
    whole = [corrupt(images, kind, 4) for kind in CORRUPTIONS]
    assert images.numel() < VALUES_AT_ONCE
    monkeypatch.setattr("puzzle_study.corruptions.corrupt.VALUES_AT_ONCE", 2 * images[0].numel())
    for kind, once in zip(CORRUPTIONS, whole, strict=True):
        assert (corrupt(images, kind, 4).int() - once.int()).abs().max() <= 1, kind


def test_what_makes_no_sense_is_one_sentence() -> None:
    images = pictures(GREY)
    with pytest.raises(UserError, match=r"no severity 6 of shift.*1 to 5"):
        corrupt(images, "shift", 6)
    with pytest.raises(UserError, match=r"colour_cast needs images with 3 channels.*have 1"):
        corrupt(images, "colour_cast", 1)
    with pytest.raises(UserError, match=r"jpeg needs images with 1 or 3 channels"):
        corrupt(torch.zeros(1, 5, 16, 16, dtype=torch.uint8), "jpeg", 1)
    with pytest.raises(UserError, match=r"no corruption 'shfit'.*shift"):
        corrupt(images, "shfit", 1)


class TestByDefinition:
    def test_brightness_contrast_lamp_and_gamma(self) -> None:
        images = pictures(COLOUR)
        x = images.double().numpy() / 255
        mean = x.mean((1, 2, 3), keepdims=True)
        expected = {
            "brighter": x + 0.1,
            "darker": x - 0.1,
            "contrast": mean + 0.6 * (x - mean),
            "dim_lamp": 0.8 * x,
            "gamma": x**1.5,
            "colour_cast": x * np.array([1.1, 1, 0.9])[:, None, None],
        }
        for kind, wanted in expected.items():
            found = corrupt(images, kind, 3).numpy().astype(int)
            assert abs(found - 255 * np.clip(wanted, 0, 1)).max() <= 0.5 + 1e-3, kind

    def test_a_vignette_takes_its_share_in_the_corners_and_nothing_in_the_centre(self) -> None:
        white = torch.full((1, 1, 21, 31), 255, dtype=torch.uint8)
        found = corrupt(white, "vignette", 4)[0, 0].float() / 255
        assert found[10, 15] == 1
        assert found[0, 0] == found[-1, -1] == pytest.approx(0.5, abs=0.003)

    def test_a_shift_by_whole_pixels_copies_pixels_and_mirrors_the_border(self) -> None:
        x = pictures(COLOUR) / 255
        offset = torch.tensor([[2.0, -3.0]]).double().expand(len(x), 2)
        found = moved(x, torch.eye(2).double().expand(len(x), 2, 2), offset)
        padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 3), (2, 0)), mode="symmetric")
        assert np.allclose(found.numpy(), padded[:, :, 3:, : x.shape[3]], atol=1e-4)

    def test_a_shift_has_the_length_of_its_value_and_any_direction(self) -> None:
        # Slopes of 1/100 a pixel tell where each image came from.
        row, column = torch.meshgrid(torch.arange(30.0), torch.arange(30.0), indexing="ij")
        directions = []
        for severity in SEVERITIES[:4]:
            value = CORRUPTIONS["shift"].value(severity, 30)
            moves = []
            for slope in (column / 100, row / 100):
                generators = [torch.Generator().manual_seed(seed) for seed in range(40)]
                found = CORRUPTIONS["shift"].apply(slope.expand(40, 1, 30, 30), value, generators)
                moves.append(100 * (slope - found)[..., 10:20, 10:20].mean((1, 2, 3)))
            move_2N = torch.stack(moves)
            # On a slope PyTorch's bicubic kernel is off by 0.03 pixels, up to 0.07 on a diagonal.
            assert move_2N.norm(dim=0).tolist() == pytest.approx([value] * 40, abs=0.07)
            directions.append(move_2N / value)
        assert all(one.min() < -0.7 < 0.7 < one.max() for one in directions[0])
        # An image goes the same way at every severity.
        assert torch.allclose(directions[0], directions[3], atol=0.15)

    def test_rotation_and_scale_agree_with_scipy_inside(self) -> None:
        x = pictures((1, 41, 41), count=2)[:, 0].double().numpy()
        for kind, severity, candidates in (
            ("rotation", 4, [ndimage.rotate(x, sign * 10, (1, 2), reshape=False, order=3) for sign in (1, -1)]),
            ("scale", 3, [_zoomed(x, factor) for factor in (1.1, 1 / 1.1)]),
        ):
            found = corrupt(torch.from_numpy(x).byte()[:, None], kind, severity)[:, 0].double().numpy()
            for image, *others in zip(found, *candidates, strict=True):
                inside = slice(10, 31)
                gaps = [float(np.abs(image - other)[inside, inside].mean()) for other in others]
                assert min(gaps) < 3, (kind, gaps)
                assert max(gaps) > 10, (kind, gaps)

    def test_a_gaussian_blur_is_scipys(self) -> None:
        images = pictures(COLOUR)
        sigma = CORRUPTIONS["gaussian_blur"].value(4, 27)
        wanted = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=4)
        assert abs(corrupt(images, "gaussian_blur", 4).numpy() - wanted).max() < 1

    def test_blurs_spread_a_point_over_a_disc_and_along_a_line(self) -> None:
        point = torch.zeros(1, 3, 61, 61)
        point[:, :, 30, 30] = 1.0
        row, column = torch.meshgrid(torch.arange(-30.0, 31), torch.arange(-30.0, 31), indexing="ij")
        for kind, share in (("defocus_blur", 1 / 2), ("motion_blur", 1 / 12)):
            value = CORRUPTIONS[kind].value(4, 61)
            generators = [torch.Generator().manual_seed(0)]
            found = CORRUPTIONS[kind].apply(point, value, generators)[0, 0]
            assert found.sum() == pytest.approx(1, abs=1e-4)
            second = float((found * (row**2 + column**2)).sum())
            # Linear interpolation between pixels adds up to 1/4 in each direction.
            assert share * value**2 - 0.01 < second < share * value**2 + 0.5, kind
        angle_spread = [float((found * one**2).sum()) for one in (row, column)]
        assert abs(angle_spread[0] - angle_spread[1]) > 1  # a line, not a disc

    def test_noise_has_its_standard_deviation(self) -> None:
        flat = torch.full((20, 1, 40, 40), 128, dtype=torch.uint8)
        gaussian = corrupt(flat, "gaussian_noise", 4).float() / 255
        assert gaussian.std() == pytest.approx(0.08, rel=0.03)
        shot = corrupt(flat, "shot_noise", 4).float() / 255
        assert shot.std() == pytest.approx(0.12 * math.sqrt(128 / 255), rel=0.03)
        assert shot.mean() == pytest.approx(128 / 255, rel=0.01)

    def test_jpeg_is_pillows(self) -> None:
        for shape in (GREY, COLOUR):
            images = pictures(shape)
            for image, found in zip(images, corrupt(images, "jpeg", 4), strict=True):
                file = io.BytesIO()
                pixels = image.permute(1, 2, 0).squeeze(2).numpy() if shape == GREY else image.permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(file, "JPEG", quality=20)
                again = np.asarray(Image.open(file)).reshape(*shape[1:], shape[0])
                assert np.array_equal(found.permute(1, 2, 0).numpy(), again)

    def test_dead_pixels_and_occlusion_cover_their_share(self) -> None:
        grey = torch.full((10, 3, 40, 50), 100, dtype=torch.uint8)
        dead = corrupt(grey, "dead_pixels", 5)
        for image in dead:
            values, counts = image.unique(return_counts=True)
            assert set(values.tolist()) <= {0, 100, 255}
            assert counts[values != 100].sum() == 3 * 100
            assert ((image == 100).all(0) | (image != 100).all(0)).all()  # all channels of a pixel die together
        covered = (corrupt(grey, "occlusion", 4) == 128).all(1)
        assert covered.flatten(1).float().mean(1).tolist() == pytest.approx([0.1] * 10, abs=0.005)
        assert len({tuple(image.nonzero()[0].tolist()) for image in covered}) > 5


def _zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """Return pictures enlarged about their centre, as wide as before."""
    centre = (x.shape[1] - 1) / 2
    offset = centre - centre / factor
    return np.stack([ndimage.affine_transform(one, np.eye(2) / factor, offset, order=3) for one in x])
