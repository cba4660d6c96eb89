"""A mean over neighbouring pixels, which leaves less detail."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from puzzle_study.criteria.kinds.base import Kind, as_uint8

LARGE = 56
"""Side, in pixels, from which the window grows with the image."""


def blur(x_NCHW: Tensor, _: Tensor, window: float, __: torch.Generator) -> Tensor:
    """Return images in which each pixel is the mean of a square window, as many pixels wide on images up to 56."""
    side = min(x_NCHW.shape[2:])
    reach = round((window - 1) / 2 * max(side / LARGE, 1.0))
    padded = pad(x_NCHW.float(), [reach] * 4, mode="replicate")
    rows = avg_pool2d(padded, (2 * reach + 1, 1), stride=1)
    return as_uint8(avg_pool2d(rows, (1, 2 * reach + 1), stride=1))


KIND = Kind(
    title="blur",
    family="detail",
    severities=(3, 5, 7),
    meaning="side of the window, pixels of an image of at most 56",
    spoil=blur,
    random=False,
)
