"""An autoencoder with structural similarity (Bergmann et al. 2019); `autoencoders.py` has its network.

SSIM follows Wang et al. 2004 in the paper's form: a uniform window of 11×11 pixels, biased variances, and for pixels
in [0, 1] the constants 0.01² and 0.03², which the paper prints without the squares. At the border the window is cut to
the image, so that the map is as large as the image.

The output layer has a sigmoid, as in public code for this paper; the paper has none. Output darker than black has
a negative luminance, from which the gradient leads to ever larger values: without the sigmoid the loss
of tiles with 128 pixels stayed at 1.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puzzle_study.config import layers
from puzzle_study.config.types import Layer
from puzzle_study.detectors.autoencoders import (
    SOURCE,
    Autoencoder,
    AutoencoderModel,
    AutoencoderSettings,
    ConvolutionalAutoencoder,
)
from puzzle_study.detectors.base import Shape

WINDOW = 11
LUMINANCE, CONTRAST = 0.01**2, 0.03**2


class AESSIMSettings(AutoencoderSettings):
    """Bergmann's network and training; `fast` is slower than the other autoencoders'."""

    # At 3e-3, one of five trainings on MNIST 8 saturated its outputs and stayed there.
    PRESETS: ClassVar[dict[str, Layer]] = layers.merge(
        AutoencoderSettings.PRESETS, {"fast": {"train": {"learning_rate": 1e-3}}}
    )


class AESSIM(Autoencoder):
    """An image's error is 1 minus its mean structural similarity to its reconstruction by the autoencoder."""

    name = "ae_ssim"
    title = "AE-SSIM"
    source = SOURCE
    Settings = AESSIMSettings

    @classmethod
    def network_for(cls, model: AutoencoderModel, shape: Shape) -> ConvolutionalAutoencoder:
        """Return the untrained network, whose output stays in [0, 1]."""
        return ConvolutionalAutoencoder(shape, code=model.code, base_channels=model.base_channels, last=nn.Sigmoid())

    def differences(self, x_NCHW: Tensor, rebuilt_NCHW: Tensor) -> Tensor:
        """Return 1 - SSIM around each pixel, the mean over the channels, in [0, 2], [N, H, W]."""
        return (1 - structural_similarity(x_NCHW, rebuilt_NCHW)).mean(1).clamp_min(0)


def structural_similarity(x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
    """Return the SSIM of the windows around each pixel of images in [0, 1], [N, C, H, W]; 1 if they are equal."""
    products = (x_NCHW, y_NCHW, x_NCHW.square(), y_NCHW.square(), x_NCHW * y_NCHW)
    mean_x, mean_y, square_x, square_y, product = _window_means(torch.cat(products, 1)).chunk(len(products), 1)
    variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE) / (mean_x.square() + mean_y.square() + LUMINANCE)
    structure = (2 * covariance + CONTRAST) / (variance_x + variance_y + CONTRAST)
    return luminance * structure


def _window_means(x_NCHW: Tensor) -> Tensor:
    """Return the mean of the window around each pixel, first down, then across, with a fifth of the additions."""
    for kernel, padding in (((WINDOW, 1), (WINDOW // 2, 0)), ((1, WINDOW), (0, WINDOW // 2))):
        x_NCHW = F.avg_pool2d(x_NCHW, kernel, 1, padding, count_include_pad=False)
    return x_NCHW
