"""A camera or a thing that is not where it was: shift, rotation, distance.

Between pixels images are bicubic, and mirrored at their border: a texture goes on there, and a plain background stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from puzzle_study.corruptions.base import PIXELS, Corruption, drawn


class Shift(Corruption):
    title = "shift"
    does = "moves the image this far, in a direction drawn for each image"
    values = (1.5, 3.0, 6.0, 9.0, 15.0)
    unit = PIXELS
    form = "{} pixels"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        angle_N = 2 * math.pi * _uniform(generators)
        offset_N2 = value * torch.stack((angle_N.cos(), angle_N.sin()), 1)
        return moved(x_NCHW, torch.eye(2, dtype=torch.float64).expand(len(x_NCHW), 2, 2), offset_N2)


class Rotation(Corruption):
    title = "rotation"
    does = "turns the image about its centre, to the left or to the right as drawn for each image"
    values = (1.0, 3.0, 6.0, 10.0, 15.0)
    unit = "degrees"
    form = "{}°"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        angle_N = math.radians(value) * _signs(generators)
        cos, sin = angle_N.cos(), angle_N.sin()
        return moved(x_NCHW, torch.stack((cos, -sin, sin, cos), 1).reshape(-1, 2, 2))


class Scale(Corruption):
    title = "scale"
    does = "makes the image larger or smaller by this factor about its centre, as drawn for each image"
    values = (1.02, 1.05, 1.1, 1.15, 1.25)
    unit = "factor"
    form = "× {}"
    neutral = 1.0

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        factor_N = value ** _signs(generators)
        return moved(x_NCHW, torch.diag_embed(torch.stack((factor_N, factor_N), 1)))


def moved(x_NCHW: Tensor, matrix_N22: Tensor, offset_N2: Tensor | None = None) -> Tensor:
    """Return images whose point p, in pixels (x to the right, y down) from the centre, went to matrix·p + offset."""
    size = torch.tensor([x_NCHW.shape[3], x_NCHW.shape[2]], dtype=torch.float64)
    inverse_N22 = torch.linalg.inv(matrix_N22)
    from_N2 = torch.zeros(len(x_NCHW), 2, dtype=torch.float64)
    if offset_N2 is not None:
        from_N2 = -(inverse_N22 @ offset_N2[..., None]).squeeze(2)
    # affine_grid counts in half sides.
    theta_N23 = torch.cat((inverse_N22 * size / size[:, None], (2 * from_N2 / size)[..., None]), 2)
    grid = F.affine_grid(theta_N23.to(x_NCHW), list(x_NCHW.shape), align_corners=False)
    return F.grid_sample(x_NCHW, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def _uniform(generators: Sequence[torch.Generator]) -> Tensor:
    """Return a number in [0, 1) for each image."""
    return drawn(generators, lambda generator: torch.rand((), generator=generator, dtype=torch.float64))


def _signs(generators: Sequence[torch.Generator]) -> Tensor:
    """Return 1 or −1 for each image."""
    return (_uniform(generators) < 0.5).double() * 2 - 1
