"""OCGAN, beside the conformance suite.

Shape legend: N images, C channels, H and W pixels, L numbers of a code.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from puzzle_study.config import layers
from puzzle_study.detectors.base import Run, Shape
from puzzle_study.detectors.ocgan import OCGAN, OCGANSettings

from .building import built, weights

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def test_the_networks_have_the_weights_of_the_authors() -> None:
    detector = built(OCGAN, {}, "cifar10", Shape(3, 32, 32))
    inner, norms = 25 * (64 * 128 + 128 * 256), 2 * (128 + 256)
    assert weights(detector.encoder) == 25 * 3 * 64 + 64 + inner + norms + 25 * 256 * 16
    assert weights(detector.decoder) == 25 * 16 * 256 + inner + 2 * (256 + 128 + 64) + 25 * 64 * 3 + 3
    assert detector.start is not None
    adversaries = detector.start.adversaries
    assert weights(adversaries.codes) == 17 * 128 + 129 * 64 + 65 * 32 + 33 * 16
    for judge, base in ((adversaries.images, 12), (adversaries.classifier, 64)):
        convolutions = 25 * (3 * base + 2 * base**2 + 8 * base**2 + 4 * base)
        assert weights(judge) == convolutions + base + 1 + 2 * (2 * base + 4 * base)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("shape", [Shape(1, 28, 28), Shape(3, 30, 17), Shape(1, 200, 100)])
def test_images_of_any_size_have_maps_of_their_size(depth: int, shape: Shape) -> None:
    model = {"depth": depth, "base_channels": 2, "discriminator_channels": 2}
    detector = built(OCGAN, {"model": model}, "mnist", shape).eval()
    images = torch.zeros(2, shape.channels, shape.height, shape.width, dtype=torch.uint8)
    error_NK, map_NHW = detector.maps(images)
    assert error_NK.shape == (2, 1)
    assert map_NHW.shape == (2, shape.height, shape.width)


def test_an_error_is_the_mean_squared_error_of_the_reconstruction() -> None:
    detector = built(OCGAN, dict(OCGANSettings.SMALL), "mnist", Shape(1, 29, 29)).eval()
    x_1CHW = torch.rand(1, 1, 29, 29, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again = detector.decoder(detector.encoder(2 * x_1CHW - 1))
        expected = ((again + 1) / 2 - x_1CHW).square().mean() * 4
        assert float(detector.errors(x_1CHW)) == pytest.approx(float(expected), rel=1e-4)


def test_mining_moves_codes_to_images_that_are_taken_for_made_up_more() -> None:
    detector = built(OCGAN, dict(OCGANSettings.SMALL), "mnist", Shape(1, 16, 16)).eval()
    assert detector.start is not None
    classifier = detector.start.adversaries.classifier.eval()
    # As drawn, the classifier says nearly the same of all images.
    with torch.no_grad():
        for weight in (*classifier.parameters(), *detector.decoder.parameters()):
            weight.mul_(3)
    start_NL = torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    mined_NL = detector._mined(start_NL.clone(), classifier, torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (float(classifier(detector.decoder(z_NL.tanh())).mean()) for z_NL in (start_NL, mined_NL))
    assert after < before


class Rows(Run):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def epoch(self, row: dict[str, float], state: Any, *, last: bool) -> None:
        self.rows.append(row)


def test_mining_begins_after_its_epoch() -> None:
    """The same training until then, another one after it."""
    images = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    runs = []
    for after in (2, 4):
        own = layers.merge(OCGANSettings.SMALL, {"train": {"epochs": 4, "mining_after": after}})
        run = Rows()
        built(OCGAN, own, "mnist", Shape(1, 16, 16)).fit(images, run)
        runs.append(run.rows)
    assert runs[0][:2] == runs[1][:2]
    assert runs[0][2]["loss_adv"] != runs[1][2]["loss_adv"]


def test_presets_say_what_they_promise() -> None:
    paper = OCGANSettings.model_validate(layers.resolved(OCGANSettings, {}, "mnist"))
    assert (paper.train.epochs, paper.train.batch_size, paper.train.lambda_) == (200, 512, 10.0)
    own_images = OCGANSettings.model_validate(layers.resolved(OCGANSettings, {}, "folder"))
    assert (own_images.preset, own_images.train.batch_size) == ("fast", 16)
    digits = [layers.resolved(OCGANSettings, {"preset": preset}, "digits") for preset in ("paper", "fast")]
    assert {**digits[0], "preset": ""} == {**digits[1], "preset": ""}
