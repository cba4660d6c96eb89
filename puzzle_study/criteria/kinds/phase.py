"""The same spatial frequencies at other places: power spectrum kept, phases random."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind, as_uint8


def phase(x_NCHW: Tensor, _: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return images whose phases are turned by a share of a random angle, by the same one in every channel."""
    images, (height, width) = len(x_NCHW), x_NCHW.shape[2:]
    # Noise has the symmetry that keeps the image real, whatever its height and width.
    turn = torch.fft.rfft2(torch.randn(images, 1, height, width, generator=generator)).angle()
    turn[..., 0, 0] = 0  # the mean stays
    spectrum = torch.fft.rfft2(x_NCHW.float())
    return as_uint8(torch.fft.irfft2(spectrum * torch.polar(torch.ones_like(turn), share * turn), s=(height, width)))


KIND = Kind(
    title="random phases",
    family="detail",
    severities=(0.4, 1.0),
    meaning="share of a random phase",
    spoil=phase,
    weights={"defects": 0.25},
)
