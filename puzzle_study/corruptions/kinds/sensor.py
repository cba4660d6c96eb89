"""Camera and file: noise, dead pixels, compression."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from puzzle_study.corruptions.base import Corruption, drawn


class GaussianNoise(Corruption):
    title = "gaussian noise"
    does = "adds noise of this standard deviation to every pixel and channel"
    values = (0.01, 0.02, 0.04, 0.08, 0.15)
    unit = "pixel value"
    form = "σ = {}"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        noise_NCHW = drawn(
            generators, lambda generator: torch.randn(x_NCHW.shape[1:], generator=generator), x_NCHW.device
        )
        return x_NCHW + value * noise_NCHW


class ShotNoise(Corruption):
    title = "shot noise"
    does = "counts photons: a pixel x becomes Poisson(x/s²)·s², whose standard deviation at white is s, the value"
    values = (0.02, 0.04, 0.07, 0.12, 0.2)
    unit = "pixel value at white"
    form = "σ = {} at white"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        photons = 1 / value**2
        # PyTorch draws from a generator on its own device, and the numbers must not depend on the device.
        counted = [
            torch.poisson(image.cpu() * photons, generator) for image, generator in zip(x_NCHW, generators, strict=True)
        ]
        return torch.stack(counted).to(x_NCHW.device) / photons


class DeadPixels(Corruption):
    title = "dead pixels"
    does = "makes this share of the pixels, drawn for each image, black or white, at least one"
    values = (0.2, 0.5, 1.0, 2.0, 5.0)
    unit = "% of the pixels"
    form = "{} %"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        height, width = x_NCHW.shape[2:]
        dead = max(1, round(value / 100 * height * width))

        def places(generator: torch.Generator) -> Tensor:
            """Return what becomes of each pixel: 0 black, 1 white, 2 as it is."""
            order = torch.randperm(height * width, generator=generator)
            fate = torch.randint(2, (height * width,), generator=generator)
            fate[order[dead:]] = 2
            return fate.reshape(1, height, width)

        fate_N1HW = drawn(generators, places, x_NCHW.device)
        return torch.where(fate_N1HW == 2, x_NCHW, fate_N1HW.to(x_NCHW.dtype))


class Jpeg(Corruption):
    title = "JPEG"
    does = "saves the image as JPEG of this quality and reads it again (Pillow's defaults otherwise)"
    values = (80.0, 60.0, 40.0, 20.0, 10.0)
    unit = "quality"
    form = "quality {}"
    neutral = 100.0
    channels = (1, 3)

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        pixels_NHWC = x_NCHW.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        saved = np.stack([_saved(pixels, int(value)) for pixels in pixels_NHWC])
        return torch.from_numpy(saved).permute(0, 3, 1, 2).to(x_NCHW.device, x_NCHW.dtype) / 255


def _saved(pixels_HWC: np.ndarray, quality: int) -> np.ndarray:
    """Return an image after JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC.squeeze(2) if pixels_HWC.shape[2] == 1 else pixels_HWC).save(
        file, "JPEG", quality=quality
    )
    with Image.open(file) as image:
        return np.asarray(image).reshape(pixels_HWC.shape)
