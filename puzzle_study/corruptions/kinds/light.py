"""Light and exposure: brightness, contrast, lamps, colour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puzzle_study.corruptions.base import Corruption

PIXEL_VALUE = "pixel value"
FACTOR = "factor"


class Brighter(Corruption):
    title = "more brightness"
    does = "adds the value to every pixel"
    values = (0.03, 0.06, 0.1, 0.2, 0.3)
    unit = PIXEL_VALUE
    form = "+{}"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        return x_NCHW + value


class Darker(Corruption):
    title = "less brightness"
    does = "subtracts the value from every pixel"
    values = (0.03, 0.06, 0.1, 0.2, 0.3)
    unit = PIXEL_VALUE
    form = "−{}"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        return x_NCHW - value


class Contrast(Corruption):
    title = "less contrast"
    does = "multiplies the distance of every pixel from the image's mean"
    values = (0.9, 0.75, 0.6, 0.45, 0.3)
    unit = FACTOR
    form = "× {}"
    neutral = 1.0

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        mean = x_NCHW.mean((1, 2, 3), keepdim=True)
        return mean + value * (x_NCHW - mean)


class DimLamp(Corruption):
    title = "dim lamp"
    does = "multiplies every pixel"
    values = (0.95, 0.9, 0.8, 0.65, 0.5)
    unit = FACTOR
    form = "× {}"
    neutral = 1.0

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        return value * x_NCHW


class Gamma(Corruption):
    title = "gamma"
    does = "raises every pixel to this power, which darkens mid-tones"
    values = (1.1, 1.25, 1.5, 2.0, 2.5)
    unit = "exponent"
    form = "exponent {}"
    neutral = 1.0

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        return x_NCHW**value


class ColourCast(Corruption):
    title = "colour cast"
    does = "multiplies red by 1 + the value and blue by 1 − the value, as a warmer lamp does"
    values = (0.03, 0.06, 0.1, 0.2, 0.3)
    unit = "share of red and blue"
    form = "±{}"
    channels = (3,)

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        return x_NCHW * x_NCHW.new_tensor([1 + value, 1, 1 - value])[:, None, None]


class Vignette(Corruption):
    title = "vignette"
    does = "darkens with the square of the distance from the centre, by this share in the corners"
    values = (0.1, 0.2, 0.35, 0.5, 0.7)
    unit = "share lost in the corners"
    form = "−{} in the corners"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        height, width = x_NCHW.shape[2:]
        row = torch.linspace(-1, 1, height, device=x_NCHW.device)[:, None]
        column = torch.linspace(-1, 1, width, device=x_NCHW.device)[None, :]
        return x_NCHW * (1 - value * (row**2 + column**2) / 2)
