"""Loss of sharpness: a wrong focus, a dirty lens, a moving camera.

An image is blurred by a kernel, and mirrored at its border. Shape legend: S side of a kernel, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from puzzle_study.corruptions.base import PIXELS, Corruption, drawn

POINTS = 257
"""Points of a line, and on the diameter of a disc, over which an image is averaged."""


class GaussianBlur(Corruption):
    title = "gaussian blur"
    does = "blurs with a Gaussian of this standard deviation"
    values = (2.0, 3.0, 4.5, 6.0, 9.0)
    unit = PIXELS
    form = "σ = {} pixels"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        reach = max(1, math.ceil(4 * value))
        offset_S = torch.arange(-reach, reach + 1, dtype=torch.float64)
        weight_S = torch.exp(-(offset_S**2) / (2 * value**2))
        weight_S = (weight_S / weight_S.sum()).to(x_NCHW)
        rows = _blurred(x_NCHW, weight_S[None, :, None])
        return _blurred(rows, weight_S[None, None, :])


class DefocusBlur(Corruption):
    title = "defocus"
    does = "averages over a disc of this radius"
    values = (2.0, 3.0, 5.0, 7.0, 10.0)
    unit = PIXELS
    form = "radius {} pixels"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        line_P = torch.linspace(-value, value, POINTS, dtype=torch.float64)
        row, column = (one.flatten() for one in torch.meshgrid(line_P, line_P, indexing="ij"))
        inside = row**2 + column**2 <= value**2
        return _blurred(x_NCHW, _kernels(row[inside][None], column[inside][None], value).to(x_NCHW))


class MotionBlur(Corruption):
    title = "motion blur"
    does = "averages along a line of this length, in a direction drawn for each image"
    values = (3.0, 6.0, 10.0, 15.0, 20.0)
    unit = PIXELS
    form = "length {} pixels"

    @classmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        angle_N1 = math.pi * drawn(generators, lambda g: torch.rand(1, generator=g, dtype=torch.float64))
        line_P = torch.linspace(-value / 2, value / 2, POINTS, dtype=torch.float64)
        kernels = _kernels(angle_N1.sin() * line_P, angle_N1.cos() * line_P, value / 2)
        return _blurred(x_NCHW, kernels.to(x_NCHW))


def _kernels(row_NP: Tensor, column_NP: Tensor, reach: float) -> Tensor:
    """Return kernels [N, S, S] that average an image, linear between its pixels, over P points around a pixel."""
    ends = math.ceil(reach)
    offset_S = torch.arange(-ends, ends + 1, dtype=torch.float64)
    row_NPS, column_NPS = ((1 - (offset_S - at_NP[..., None]).abs()).clamp_min(0) for at_NP in (row_NP, column_NP))
    return torch.einsum("nps,npt->nst", row_NPS, column_NPS) / row_NP.shape[1]


def _blurred(x_NCHW: Tensor, kernel_NSS: Tensor) -> Tensor:
    """Return images, each blurred by its own kernel, or all by the only one."""
    images, channels, height, width = x_NCHW.shape
    tall, wide = kernel_NSS.shape[1] // 2, kernel_NSS.shape[2] // 2
    padded = x_NCHW[..., _mirrored(height, tall, x_NCHW.device), :][..., _mirrored(width, wide, x_NCHW.device)]
    if len(kernel_NSS) == 1:
        return F.conv2d(padded.flatten(0, 1)[:, None], kernel_NSS[:, None]).reshape(x_NCHW.shape)
    kernels = kernel_NSS.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded.flatten(0, 1)[None], kernels, groups=images * channels).reshape(x_NCHW.shape)


def _mirrored(size: int, more: int, device: torch.device) -> Tensor:
    """Return which pixel of a row lies at each place from −more on, mirrored at its ends (…1 0 | 0 1 …)."""
    index = torch.arange(-more, size + more, device=device).remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)
