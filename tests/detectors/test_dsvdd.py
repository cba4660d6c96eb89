"""Deep SVDD, beside the conformance suite.

Shape legend: N images, C channels, H and W pixels, D numbers of a code.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from puzzle_study.config import layers
from puzzle_study.detectors import dsvdd
from puzzle_study.detectors.base import Run, Shape
from puzzle_study.detectors.dsvdd import DeepSVDD, DeepSVDDSettings
from puzzle_study.statistics import metrics

from .building import built

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) * (255 / 16)
    return functional.interpolate(small, scale_factor=2).round().byte(), torch.from_numpy(labels)


@pytest.mark.parametrize(
    ("dataset", "shape", "encoder", "decoder"),
    [
        ("mnist", Shape(1, 28, 28), [200, 800, 4 * 7 * 7 * 32], [200, 800, 200]),
        (
            "cifar10",
            Shape(3, 32, 32),
            [2400, 51_200, 204_800, 128 * 4 * 4 * 128],
            [25_600, 204_800, 51_200, 2400],
        ),
    ],
)
def test_the_networks_have_the_weights_of_the_authors(
    dataset: str, shape: Shape, encoder: list[int], decoder: list[int]
) -> None:
    detector = built(DeepSVDD, {}, dataset, shape)
    assert [weight.numel() for weight in detector.encoder.parameters()] == encoder
    assert detector.start is not None
    assert [weight.numel() for weight in detector.start.decoder.parameters()] == decoder


@pytest.mark.parametrize("network", ["small", "large"])
@pytest.mark.parametrize("shape", [Shape(1, 28, 28), Shape(3, 30, 17), Shape(3, 64, 48)])
def test_the_decoder_gives_images_of_any_size(network: str, shape: Shape) -> None:
    x_NCHW = torch.zeros(2, shape.channels, shape.height, shape.width)
    code_ND = dsvdd.Encoder(network, shape)(x_NCHW)
    assert dsvdd.Decoder(network, shape)(code_ND).shape == x_NCHW.shape


def test_pooling_before_the_norm_changes_nothing() -> None:
    """The slow twin of the encoder in eval mode, in the order of the paper."""
    encoder = dsvdd.Encoder("small", Shape(1, 28, 28))
    generator = torch.Generator().manual_seed(0)
    x_NCHW = torch.rand(6, 1, 28, 28, generator=generator)
    encoder(x_NCHW)
    encoder.eval()
    h_NCHW = x_NCHW
    for convolution, norm in zip(encoder.convolutions, encoder.norms, strict=True):
        h_NCHW = functional.max_pool2d(functional.leaky_relu(norm(convolution(h_NCHW))), 2)
    torch.testing.assert_close(encoder(x_NCHW), encoder.code(h_NCHW.flatten(1)), rtol=1e-6, atol=1e-6)


def test_errors_are_what_the_paper_writes() -> None:
    """Another way: image by image, with the normalisation written out."""
    detector = built(DeepSVDD, dict(DeepSVDDSettings.SMALL), "mnist", Shape(1, 28, 28))
    images = torch.randint(0, 256, (12, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    detector.fit(images, Run())
    detector.eval()
    low = min(float(contrast(image).min()) for image in images)
    high = max(float(contrast(image).max()) for image in images)
    assert float(detector.centre_D.abs().min()) >= dsvdd.LEAST_CENTRE
    with torch.no_grad():
        for image in images[:3]:
            code_D = detector.encoder(((contrast(image) - low) / (high - low))[None])[0]
            expected = sum((float(a) - float(b)) ** 2 for a, b in zip(code_D, detector.centre_D, strict=True))
            assert float(detector.errors(image[None] / 255)) == pytest.approx(expected, rel=1e-3)


def contrast(image: Tensor) -> Tensor:
    centred = image / 255 - (image / 255).mean()
    return centred / centred.abs().mean()


class Rates(Run):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def epoch(self, row: dict[str, float], state: Any, *, last: bool) -> None:
        self.rows.append(row)
        parts = state()["parts"]
        phase = "first" if "loss_rec" in row else "second"
        self.rows[-1] = row | {"rate": parts[phase]["param_groups"][0]["lr"]}


def test_it_pretrains_and_then_pulls_each_with_its_rates() -> None:
    own = {
        "pretrain": {"epochs": 3, "milestone": 2, "learning_rate": 1e-2},
        "train": {"epochs": 2, "milestone": 1, "learning_rate": 1e-3},
    }
    run = Rates()
    built(DeepSVDD, own, "mnist", Shape(1, 16, 16)).fit(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), run)
    assert [("loss_rec" in row, "loss_distance" in row) for row in run.rows] == [(True, False)] * 3 + [
        (False, True)
    ] * 2
    assert [row["rate"] for row in run.rows] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])


def test_it_learns_a_digit() -> None:
    images, labels = digits()
    normal = images[labels == 3]
    detector = built(DeepSVDD, {}, "digits", Shape(1, 16, 16))
    detector.fit(normal[:120], Run())
    detector.calibrate(normal[120:140])
    test = torch.cat((normal[140:], images[labels != 3][:300]))
    scores_N = detector.scores(detector.error_matrix(test))
    assert metrics.auroc(scores_N.numpy(), (torch.arange(len(test)) >= len(normal) - 140).numpy()) > 0.85


def test_presets_say_what_they_promise() -> None:
    paper = DeepSVDDSettings.model_validate(layers.resolved(DeepSVDDSettings, {}, "cifar10"))
    assert (paper.epochs_wanted, paper.pretrain.milestone, paper.train.learning_rate) == (500, 250, 1e-4)
    own_images = DeepSVDDSettings.model_validate(layers.resolved(DeepSVDDSettings, {}, "folder"))
    assert (own_images.preset, own_images.model.network) == ("fast", "large")
    assert own_images.epochs_wanted < 150
    digits = [layers.resolved(DeepSVDDSettings, {"preset": preset}, "digits") for preset in ("paper", "fast")]
    assert {**digits[0], "preset": ""} == {**digits[1], "preset": ""}
