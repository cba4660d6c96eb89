"""A denoising autoencoder (Vincent et al. 2008) with the network of `autoencoders.py`.

Differences from the paper, which learns features for a classifier and does not detect anomalies: the noise is Gaussian
instead of pixels set to 0, the loss is the squared error instead of the cross-entropy, and the network and training are
those of the other convolutional autoencoders. No noise is added in scoring.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Generator, Tensor

from puzzle_study.config.types import unit
from puzzle_study.detectors.autoencoders import Autoencoder, AutoencoderSettings, AutoencoderTrain


class DenoisingTrain(AutoencoderTrain):
    """Bergmann et al.'s training (2019), on images with noise."""

    noise: float = Field(
        0.2,
        ge=0,
        le=2,
        json_schema_extra=unit("pixel value"),
        description="Standard deviation of the Gaussian noise; the noisy image is not clipped.",
    )


class DenoisingSettings(AutoencoderSettings):
    """Noise, network and training."""

    train: DenoisingTrain = Field(DenoisingTrain(), description="The training.")


class DAE(Autoencoder):
    """An image's error is its mean square difference from its reconstruction by a denoising autoencoder."""

    name = "dae"
    title = "DAE"
    source = (
        "Vincent, Larochelle, Bengio, Manzagol 2008: Extracting and Composing Robust Features with Denoising "
        "Autoencoders"
    )
    Settings = DenoisingSettings

    def losses(self, x_NCHW: Tensor, settings: DenoisingSettings, generator: Generator) -> dict[str, Tensor]:
        """Return the difference between clean images and reconstructions of noisy ones."""
        noise_NCHW = torch.empty_like(x_NCHW).normal_(0, settings.train.noise, generator=generator)
        return {"loss_rec": self.differences(x_NCHW, self.network(x_NCHW + noise_NCHW)).mean()}
