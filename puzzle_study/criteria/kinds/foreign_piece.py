"""A piece of the image, replaced by the same piece of another normal image."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind


def foreign_piece(x_NCHW: Tensor, partner_NCHW: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images with one piece of their partner; a share of a half is one quarter of the image."""
    images, _, height, width = x_NCHW.shape
    grid = round(1 / share)
    piece_N = torch.randint(grid * grid, (images,), generator=generator)
    row, column = (torch.arange(side) // max(side // grid, 1) for side in (height, width))
    place = grid * row.clamp_max(grid - 1)[:, None] + column.clamp_max(grid - 1)[None, :]
    return torch.where((place[None] == piece_N[:, None, None])[:, None], partner_NCHW, x_NCHW)


KIND = Kind(
    title="foreign piece",
    family="patch",
    severities=(1 / 3, 1 / 2),
    meaning="side of the piece, share of the image's",
    spoil=foreign_piece,
    tries=8,
    pairs=True,
    weights={"other_objects": 0.25},
)
