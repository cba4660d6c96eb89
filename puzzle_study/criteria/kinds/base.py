"""What a kind of pseudo-anomaly is, and what several kinds share.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

Spoil: TypeAlias = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""From uint8 images [N, C, H, W], for each another normal image, a severity and a generator to spoiled images."""


@dataclass(frozen=True)
class Kind:
    """A way to spoil normal images.

    Attributes:
        title: name in sentences.
        family: what changes: a ``patch``, the ``order`` of places, the ``light``, the ``detail``, the ``shape``, or a
            ``blend`` with another image. Families count alike in a criterion, however many kinds they have.
        severities: arguments of ``spoil``, from the mildest.
        meaning: what a severity's number is.
        spoil: a pure function; all images are on the CPU, where every device gets the same result.
        tries: of so many results for an image, the one that changes it most is kept.
        pairs: whether it needs another normal image; a single validation image has none.
        random: whether it draws, so that one image gives several different results.
        weights: how much it counts if a user expects ``defects`` or ``other_objects``; 1 if not named.
    """

    title: str
    family: str
    severities: tuple[float, ...]
    meaning: str
    spoil: Spoil
    tries: int = 1
    pairs: bool = False
    random: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return numbers [N] between two bounds."""
    return low + (high - low) * torch.rand(count, generator=generator)


def as_uint8(x_NCHW: Tensor) -> Tensor:
    """Return floats in [0, 255] as uint8 images; what lies outside is clipped."""
    return x_NCHW.round().clamp(0, 255).to(torch.uint8)


def rectangles(x_NCHW: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a random rectangle for each image: mask [N, 1, H, W], and its top, left, height and width [4, N].

    Args:
        x_NCHW: images.
        share: mean of the sides as a share of the image's; each side is 0.57 to 1.43 times as long.
        generator: what is drawn from.
    """
    images, _, height, width = x_NCHW.shape
    low, high = 4 / 7 * share, min(10 / 7 * share, 1.0)
    h_N = (uniform(images, low, high, generator) * height).round().long().clamp_min(1)
    w_N = (uniform(images, low, high, generator) * width).round().long().clamp_min(1)
    top_N = (torch.rand(images, generator=generator) * (height - h_N + 1)).long()
    left_N = (torch.rand(images, generator=generator) * (width - w_N + 1)).long()
    row, column = torch.arange(height)[None, :], torch.arange(width)[None, :]
    in_row = (row >= top_N[:, None]) & (row < (top_N + h_N)[:, None])
    in_column = (column >= left_N[:, None]) & (column < (left_N + w_N)[:, None])
    return (in_row[:, :, None] & in_column[:, None, :])[:, None], torch.stack((top_N, left_N, h_N, w_N))


def orders(count: int, things: int, generator: torch.Generator) -> Tensor:
    """Return permutations [N, things] that leave nothing in its place, each a random cycle."""
    order = torch.rand(count, things, generator=generator).argsort(1)
    return torch.empty_like(order).scatter_(1, order, order.roll(-1, 1))
