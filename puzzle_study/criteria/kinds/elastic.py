"""A smooth distortion: every place moves a little, and neighbours move alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from puzzle_study.criteria.kinds.base import Kind, as_uint8

CELLS = 5


def elastic(x_NCHW: Tensor, _: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images whose places have moved by a share of the side in each direction (standard deviation)."""
    images, (height, width) = len(x_NCHW), x_NCHW.shape[2:]
    coarse = torch.randn(images, 2, CELLS, CELLS, generator=generator)
    moved = interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    still = affine_grid(torch.eye(2, 3).expand(images, 2, 3), [images, 1, height, width], align_corners=False)
    # Grids are in [-1, 1]: the side is 2.
    sampled = grid_sample(x_NCHW.float(), still + 2 * share * moved, padding_mode="border", align_corners=False)
    return as_uint8(sampled)


KIND = Kind(
    title="elastic distortion",
    family="shape",
    severities=(0.03, 0.08),
    meaning="standard deviation of the movement, share of the image's side",
    spoil=elastic,
)
