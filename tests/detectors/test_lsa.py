"""Latent space autoregression, beside the conformance suite.

Shape legend: N images, C channels, H and W pixels, L numbers of a code, B bins.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from puzzle_study.config import layers
from puzzle_study.detectors import lsa
from puzzle_study.detectors.base import Run, Shape
from puzzle_study.detectors.lsa import LSA, LSASettings

from .building import built, weights

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def block(before: int, after: int, kernel: int, *, short: bool = True) -> int:
    """Weights of a residual block: its convolutions, and two numbers for each channel of a batch norm."""
    beside = before * after + 2 * after if short else 0
    return kernel**2 * before * after + 9 * after**2 + 4 * after + beside


def dense(*units: int) -> int:
    return sum((before + 1) * after for before, after in itertools.pairwise(units))


def test_the_autoencoders_have_the_weights_of_the_authors() -> None:
    small = lsa.Autoencoder("small", Shape(1, 28, 28))
    deepest = 64 * 7 * 7
    assert weights(small[0]) == block(1, 32, 3) + block(32, 64, 3) + dense(deepest, 64, 64) + 2 * 64
    assert weights(small[1]) == (dense(64, 64, deepest) + 2 * (64 + deepest) + block(64, 32, 5) + block(32, 16, 5) + 16)
    large = lsa.Autoencoder("large", Shape(3, 32, 32))
    deepest = 256 * 4 * 4
    assert weights(large[0]) == (
        9 * 3 * 32
        + block(32, 32, 3, short=False)
        + block(32, 64, 3)
        + block(64, 128, 3)
        + block(128, 256, 3)
        + dense(deepest, 256, 64)
        + 2 * 256
    )


@pytest.mark.parametrize("network", ["small", "large"])
@pytest.mark.parametrize("shape", [Shape(1, 28, 28), Shape(3, 30, 17), Shape(3, 34, 49)])
def test_images_of_any_size_come_back(network: str, shape: Shape) -> None:
    x_NCHW = torch.zeros(2, shape.channels, shape.height, shape.width)
    assert lsa.Autoencoder(network, shape)(x_NCHW).shape == x_NCHW.shape


def test_the_distribution_of_a_number_depends_on_earlier_numbers_only() -> None:
    density = lsa.Density(2)
    code_1L = torch.rand(1, lsa.CODE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_LB = density.logarithms(code_1L)[0]
    assert torch.allclose(log_LB.exp().sum(1), torch.ones(lsa.CODE))
    for place in (0, 1, 40):
        (slope_1L,) = torch.autograd.grad(log_LB[place].square().sum(), code_1L, retain_graph=True)
        assert bool((slope_1L[0, place:] == 0).all())
        assert bool((slope_1L[0, :place] != 0).all())


def read(log_B: list[float], number: float) -> float:
    """Read the density of a number of the code between the middles of two bins, which are 0.01 wide."""
    place = min(max(number * 100 - 0.5, 0.0), 99.0)
    below = min(int(place), 98)
    return (1 - (place - below)) * log_B[below] + (place - below) * log_B[below + 1]


def test_errors_are_the_papers_score_apart_from_a_constant() -> None:
    """Another way: number by number, and halves scaled to [0, 1] on validation images as in eq. 10."""
    detector = built(LSA, dict(LSASettings.SMALL), "mnist", Shape(1, 16, 16))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 1, 16, 16), dtype=torch.uint8, generator=generator)
    detector.fit(images[:12], Run())
    detector.calibrate(images[12:])
    pairs = []
    with torch.no_grad():
        for x_1CHW in (images[12:] / 255).split(1):
            code_1L = detector.autoencoder[0](x_1CHW)
            logs = detector.density.logarithms(code_1L)[0].tolist()
            nll = -sum(read(log_B, number) for log_B, number in zip(logs, code_1L[0].tolist(), strict=True))
            pairs.append((float((detector.autoencoder[1](code_1L) - x_1CHW).square().sum()), nll))
    expected_N = torch.zeros(len(pairs))
    for column_N in torch.tensor(pairs).T:
        expected_N += (column_N - column_N.min()) / (column_N.max() - column_N.min())
    found_N = detector.error_matrix(images[12:])[:, 0]
    torch.testing.assert_close(found_N - found_N.mean(), expected_N - expected_N.mean(), rtol=0, atol=2e-3)


def test_presets_say_what_they_promise() -> None:
    paper = LSASettings.model_validate(layers.resolved(LSASettings, {}, "cifar10"))
    assert (paper.train.epochs, paper.train.batch_size, paper.train.lambda_) == (200, 256, 1.0)
    assert (paper.model.network, paper.model.width) == ("large", 32)
    own_images = LSASettings.model_validate(layers.resolved(LSASettings, {}, "folder"))
    assert (own_images.preset, own_images.model.width) == ("fast", 4)
    digits = [layers.resolved(LSASettings, {"preset": preset}, "digits") for preset in ("paper", "fast")]
    assert {**digits[0], "preset": ""} == {**digits[1], "preset": ""}
