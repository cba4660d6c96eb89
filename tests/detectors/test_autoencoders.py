"""The convolutional autoencoders of Bergmann et al., their losses and maps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from puzzle_study.config import layers
from puzzle_study.detectors.ae_l2 import AEL2
from puzzle_study.detectors.ae_ssim import AESSIM, structural_similarity
from puzzle_study.detectors.autoencoders import AutoencoderSettings, ConvolutionalAutoencoder, encoder_layers, halvings
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.dae import DAE, DenoisingSettings
from puzzle_study.statistics import metrics
from tests.detectors.test_conformance import anomalous, kept, normal

from .building import weights

pytestmark = pytest.mark.slow

# Table 1 of the paper, for 128×128×1: channels in, channels out, kernel; the decoder is the same reversed.
PUBLISHED = ((1, 32, 4), (32, 32, 4), (32, 32, 3), (32, 64, 4), (64, 64, 3), (64, 128, 4), (128, 64, 3), (64, 32, 3))


def test_the_network_has_the_published_number_of_weights() -> None:
    network = ConvolutionalAutoencoder(Shape(1, 128, 128), code=100, base_channels=32)
    layers_ = (*PUBLISHED, (32, 100, 8))
    expected = sum(2 * inputs * outputs * kernel**2 + inputs + outputs for inputs, outputs, kernel in layers_)
    assert weights(network) == expected


@pytest.mark.parametrize(("side", "count"), [(16, 2), (28, 2), (64, 3), (128, 4), (256, 5)])
def test_the_last_map_has_about_eight_pixels_a_side(side: int, count: int) -> None:
    assert halvings(side, side) == count
    assert [stride for _, stride, _ in encoder_layers(count, 8)].count(2) == count


@pytest.mark.parametrize("shape", [Shape(1, 16, 16), Shape(3, 28, 30), Shape(1, 17, 99), Shape(3, 130, 64)])
def test_images_of_any_size_come_back_in_that_size(shape: Shape) -> None:
    network = ConvolutionalAutoencoder(shape, code=4, base_channels=2)
    x_NCHW = torch.rand(2, shape.channels, shape.height, shape.width)
    assert network(x_NCHW).shape == x_NCHW.shape


def test_signals_neither_grow_nor_fade_on_their_way_through_the_untrained_network() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConvolutionalAutoencoder(Shape(1, 64, 64), code=100, base_channels=32)
        x_NCHW = torch.randn(4, 1, 64, 64)
    assert 0.2 < float(network(x_NCHW).detach().std()) < 5


def test_structural_similarity_equals_a_direct_computation_window_by_window() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 3, 17, 20, generator=generator, dtype=torch.float64).numpy()
    y = 0.7 * x + 0.3 * y
    expected = np.empty_like(x)
    for index in np.ndindex(x.shape):
        image, row, column = index[:2], index[2], index[3]
        window = np.s_[max(row - 5, 0) : row + 6, max(column - 5, 0) : column + 6]
        p, q = x[image][window], y[image][window]
        covariance = ((p - p.mean()) * (q - q.mean())).mean()
        luminance = (2 * p.mean() * q.mean() + 1e-4) / (p.mean() ** 2 + q.mean() ** 2 + 1e-4)
        expected[index] = luminance * (2 * covariance + 9e-4) / (p.var() + q.var() + 9e-4)
    found = structural_similarity(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_the_map_of_ae_ssim_is_zero_where_an_image_is_rebuilt_and_large_where_it_is_not() -> None:
    x_NCHW = anomalous(1).float() / 255
    rebuilt_NCHW = x_NCHW.clone()
    rebuilt_NCHW[..., :2, :2] = 1 - rebuilt_NCHW[..., :2, :2]
    detector = kept("ae_ssim")
    assert isinstance(detector, AESSIM)
    (map_HW,) = detector.differences(x_NCHW, rebuilt_NCHW)
    assert float(map_HW[8:, 8:].max()) == 0
    assert float(map_HW[0, 0]) > 0.05


@pytest.mark.parametrize("name", ["ae_l2", "ae_ssim", "dae"])
def test_the_mean_of_a_map_is_the_score(name: str) -> None:
    detector = kept(name)
    error_NK, map_NHW = detector.maps(anomalous(3))
    torch.testing.assert_close(map_NHW.mean((1, 2)), detector.scores(error_NK))


def test_paper_and_fast_are_what_they_say() -> None:
    paper = AutoencoderSettings.model_validate(_without_data("mvtec", {}))
    assert paper.train.model_dump() == {
        "epochs": 200,
        "batch_size": 128,
        "learning_rate": 2e-4,
        "weight_decay": 1e-5,
    }
    assert (paper.model.code, paper.model.base_channels) == (500, 32)
    fast = AutoencoderSettings.model_validate(_without_data("folder", {}))
    assert fast.preset == "fast"
    assert fast.train.epochs < paper.train.epochs
    assert AutoencoderSettings.model_validate(_without_data("folder", {"preset": "paper"})) == AutoencoderSettings()


def _without_data(dataset: str, own: dict[str, str]) -> dict[str, object]:
    return {key: value for key, value in layers.resolved(AutoencoderSettings, own, dataset).items() if key != "data"}


class Rows(Run):
    """Keeps what is said of each epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        self.rows.append(row)


def test_dae_is_given_noisy_images_and_compared_with_the_clean_ones() -> None:
    settings = DenoisingSettings.model_validate(
        {"model": {"code": 4, "base_channels": 2}, "train": {"epochs": 1, "batch_size": 8, "noise": 0.3}}
    )
    detector = DAE.build(settings, Context(Shape(1, 16, 16), 5, torch.device("cpu"), "float32"))
    untrained = copy.deepcopy(detector.network)
    rows = Rows()
    detector.fit(normal(8), rows)

    generator = torch.Generator().manual_seed(5)
    x_NCHW = (normal(8).float() / 255)[torch.randperm(8, generator=generator)]
    noisy_NCHW = x_NCHW + 0.3 * torch.randn(x_NCHW.shape, generator=generator)
    with torch.no_grad():
        expected = float((untrained(noisy_NCHW) - x_NCHW).square().mean())
    assert rows.rows[0]["loss_rec"] == pytest.approx(expected, rel=1e-5)


def test_fast_finds_other_digits_than_the_one_it_has_learned() -> None:
    images, labels = load_digits(return_X_y=True)
    x_NCHW = torch.from_numpy(images * 255 / 16).round().byte().reshape(-1, 1, 8, 8)
    x_NCHW = x_NCHW.repeat_interleave(2, 2).repeat_interleave(2, 3)
    settings = AutoencoderSettings.model_validate(layers.resolved(AutoencoderSettings, {}, "digits"))
    context = Context(Shape(1, 16, 16), 0, torch.device("cpu"), "float32", "digits", "0")
    detector = AEL2.build(settings, context)
    detector.fit(x_NCHW[labels == 0][:120], Run())
    is_other = np.arange(58 + 200) >= 58
    error_N1 = detector.error_matrix(torch.cat((x_NCHW[labels == 0][120:], x_NCHW[labels != 0][:200])))
    assert metrics.auroc(error_N1[:, 0].numpy(), is_other) > 0.95
