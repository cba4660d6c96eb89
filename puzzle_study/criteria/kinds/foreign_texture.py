"""Something that is in no normal image: stripes, checks, rings or grain in two random colours.

Drawn, not taken from another data set: digits, say, would be the very anomalies that a study of digits is tested on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, as_uint8, rectangles, uniform


def foreign_texture(x_NCHW: Tensor, _: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images with a rectangle of a texture; a share of 1 covers the whole image."""
    texture = _textures(x_NCHW.shape, generator)
    if share >= 1:
        return texture
    mask, _ = rectangles(x_NCHW, share, generator)
    return torch.where(mask, texture, x_NCHW)


def _textures(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return images of one texture each, with 2 to 6 periods over the image."""
    images, channels, height, width = shape
    down, right = torch.linspace(-1, 1, height)[None, :, None], torch.linspace(-1, 1, width)[None, None, :]
    angle = (math.pi * torch.rand(images, generator=generator))[:, None, None]
    turns = (math.pi * uniform(images, 2, 6, generator))[:, None, None]
    first = (turns * (right * angle.cos() + down * angle.sin())).sin()
    second = (turns * (down * angle.cos() - right * angle.sin())).sin()
    rings = (turns * (down.square() + right.square()).sqrt()).sin()
    coarse = torch.randn(images, 1, 8, 8, generator=generator)
    grain = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")[:, 0]
    choices_4NHW = torch.stack((first, first * second, rings.expand_as(first), grain))
    which_N = torch.randint(4, (images,), generator=generator)
    pattern = (choices_4NHW[which_N, torch.arange(images)] > 0)[:, None]
    dark, bright = torch.rand(2, images, channels, 1, 1, generator=generator) * 127.5
    return as_uint8(torch.where(pattern, bright + 127.5, dark))


KIND = Kind(
    title="foreign texture",
    family="patch",
    severities=(0.2, 0.45, 1.0),
    meaning="side of the patch, share of the image's",
    spoil=foreign_texture,
    tries=4,
)
