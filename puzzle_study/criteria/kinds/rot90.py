"""The whole image turned by a quarter, a half or three quarters."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind


def rot90(x_NCHW: Tensor, _: Tensor, quarters: float, __: torch.Generator) -> Tensor:
    """Return square images turned by so many quarters."""
    return x_NCHW.rot90(round(quarters), (2, 3))


KIND = Kind(
    title="rotation",
    family="order",
    severities=(1, 2, 3),
    meaning="quarter turns",
    spoil=rot90,
    random=False,
    weights={"defects": 0.25},
)
