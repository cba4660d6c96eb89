"""A thin, long patch of one colour at any angle, as a scratch or a hair would be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, uniform


def scar(x_NCHW: Tensor, _: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images with a bar as thick as a share of the shorter side, at least a pixel, and 4 to 10 times as long."""
    images, channels, height, width = x_NCHW.shape
    thick = max(share * min(height, width), 1.0)
    long_N = thick * uniform(images, 4, 10, generator)
    angle_N = math.pi * torch.rand(images, generator=generator)
    centre_N2 = uniform(2 * images, 0.2, 0.8, generator).reshape(images, 2)
    colour = torch.randint(256, (images, channels, 1, 1), generator=generator, dtype=torch.uint8)
    down = torch.arange(height)[None, :, None] - centre_N2[:, :1, None] * (height - 1)
    right = torch.arange(width)[None, None, :] - centre_N2[:, 1:, None] * (width - 1)
    sine, cosine = angle_N.sin()[:, None, None], angle_N.cos()[:, None, None]
    along, across = right * cosine + down * sine, down * cosine - right * sine
    mask = (along.abs() <= long_N[:, None, None] / 2) & (across.abs() <= thick / 2)
    return torch.where(mask[:, None], colour, x_NCHW)


KIND = Kind(
    title="scar",
    family="patch",
    severities=(0.03, 0.07),
    meaning="thickness, share of the image's side",
    spoil=scar,
    tries=8,
    weights={"other_objects": 0.25},
)
