"""The image's pieces in another order."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, orders


def jigsaw(x_NCHW: Tensor, _: Tensor, grid: float, generator: torch.Generator) -> Tensor:
    """Return images cut into grid × grid pieces, each piece at another place; what is over at the edges stays."""
    images, channels, height, width = x_NCHW.shape
    side = round(grid)
    h, w = height // side, width // side
    inner = x_NCHW[..., : side * h, : side * w]
    pieces = inner.reshape(images, channels, side, h, side, w).transpose(3, 4).reshape(images, channels, -1, h, w)
    order = orders(images, side * side, generator)[:, None, :, None, None].expand_as(pieces)
    mixed = pieces.gather(2, order).reshape(images, channels, side, side, h, w).transpose(3, 4)
    result = x_NCHW.clone()
    result[..., : side * h, : side * w] = mixed.reshape(inner.shape)
    return result


KIND = Kind(
    title="jigsaw",
    family="order",
    severities=(2, 4),
    meaning="pieces along each side",
    spoil=jigsaw,
    weights={"defects": 0.25},
)
