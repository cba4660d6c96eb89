"""Two normal images in stripes side by side, two halves among them."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind


def halves(x_NCHW: Tensor, partner_NCHW: Tensor, stripes: float, generator: torch.Generator) -> Tensor:
    """Return images whose every second stripe, upright or lying, is their partner's."""
    images, _, height, width = x_NCHW.shape
    row, column = ((torch.arange(side) * round(stripes) // side) % 2 == 1 for side in (height, width))
    lying = torch.rand(images, 1, 1, 1, generator=generator) < 0.5
    return torch.where(torch.where(lying, row[:, None], column[None, :]), partner_NCHW, x_NCHW)


KIND = Kind(
    title="halves",
    family="order",
    severities=(2, 4),
    meaning="stripes",
    spoil=halves,
    tries=2,
    pairs=True,
    weights={"defects": 0.25},
)
