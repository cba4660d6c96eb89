"""A patch of the image, put elsewhere in it (CutPaste: Li et al., CVPR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, rectangles


def cut_paste(x_NCHW: Tensor, _: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images in which a rectangle shows another place of the same image."""
    mask, (top_N, left_N, h_N, w_N) = rectangles(x_NCHW, share, generator)
    images, channels, height, width = x_NCHW.shape
    from_top = (torch.rand(images, generator=generator) * (height - h_N + 1)).long()
    from_left = (torch.rand(images, generator=generator) * (width - w_N + 1)).long()
    row = (torch.arange(height)[None] + (from_top - top_N)[:, None]).clamp(0, height - 1)
    column = (torch.arange(width)[None] + (from_left - left_N)[:, None]).clamp(0, width - 1)
    index = (row[:, :, None] * width + column[:, None, :]).reshape(images, 1, -1).expand(-1, channels, -1)
    moved = x_NCHW.flatten(2).gather(2, index).reshape(x_NCHW.shape)
    return torch.where(mask, moved, x_NCHW)


KIND = Kind(
    title="cut and paste",
    family="patch",
    severities=(0.15, 0.35),
    meaning="side of the patch, share of the image's",
    spoil=cut_paste,
    tries=8,
    weights={"other_objects": 0.25},
)
