"""The mean of two normal images, which shows neither."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, as_uint8


def mixup(x_NCHW: Tensor, partner_NCHW: Tensor, share: float, _: torch.Generator) -> Tensor:
    """Return images mixed with a share of their partner."""
    return as_uint8((1 - share) * x_NCHW + share * partner_NCHW)


KIND = Kind(
    title="mixup",
    family="blend",
    severities=(0.3, 0.5),
    meaning="share of the other image",
    spoil=mixup,
    pairs=True,
    weights={"defects": 0.25},
)
