"""A patch of uniform noise."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, rectangles


def local_noise(x_NCHW: Tensor, _: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images with a rectangle of noise."""
    mask, _ = rectangles(x_NCHW, share, generator)
    noise = torch.randint(256, x_NCHW.shape, generator=generator, dtype=torch.uint8)
    return torch.where(mask, noise, x_NCHW)


KIND = Kind(
    title="local noise",
    family="patch",
    severities=(0.15, 0.35),
    meaning="side of the patch, share of the image's",
    spoil=local_noise,
    tries=8,
    weights={"other_objects": 0.25},
)
