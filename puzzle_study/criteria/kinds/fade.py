"""Less contrast: the image moves towards its own mean."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, as_uint8


def fade(x_NCHW: Tensor, _: Tensor, share: float, __: torch.Generator) -> Tensor:
    """Return images that have lost a share of their contrast, channel by channel."""
    mean = x_NCHW.float().mean((2, 3), keepdim=True)
    return as_uint8(x_NCHW + share * (mean - x_NCHW))


KIND = Kind(
    title="fading",
    family="light",
    severities=(0.35, 0.7),
    meaning="share of the contrast that is lost",
    spoil=fade,
    random=False,
)
