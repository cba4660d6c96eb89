"""Something that lies in front of the thing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from puzzle_study.corruptions.base import Corruption, drawn

GREY = 0.5


class Occlusion(Corruption):
    title = "occlusion"
    does = "covers this share of the image with a grey rectangle of its proportions, at a place drawn for each image"
    values = (1.0, 2.5, 5.0, 10.0, 20.0)
    unit = "% of the area"
    form = "{} % of the area"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        covered = torch.ones(len(x_NCHW), 1, 1, dtype=torch.bool, device=x_NCHW.device)
        at_N2 = drawn(generators, lambda generator: torch.rand(2, generator=generator), x_NCHW.device)
        for axis, size in enumerate(x_NCHW.shape[2:]):
            length = max(1, round(size * (value / 100) ** 0.5))
            start_N = (at_N2[:, axis] * (size - length + 1)).long()
            place = torch.arange(size, device=x_NCHW.device)
            inside_NS = (place >= start_N[:, None]) & (place < start_N[:, None] + length)
            covered = covered & (inside_NS[:, :, None] if axis == 0 else inside_NS[:, None, :])
        return torch.where(covered[:, None], x_NCHW.new_tensor(GREY), x_NCHW)
