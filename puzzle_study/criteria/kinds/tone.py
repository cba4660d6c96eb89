"""Another brightness in each channel: another colour, or a lamp that has changed."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, as_uint8


def tone(x_NCHW: Tensor, _: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images with a share of the pixels' range added to or taken from each channel."""
    sign = 2.0 * torch.randint(2, (*x_NCHW.shape[:2], 1, 1), generator=generator) - 1
    return as_uint8(x_NCHW + 255 * share * sign)


KIND = Kind(
    title="tone",
    family="light",
    severities=(0.08, 0.2),
    meaning="brightness added or taken, share of the range",
    spoil=tone,
    tries=2,
)
