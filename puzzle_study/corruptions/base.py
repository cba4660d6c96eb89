"""What a corruption provides: its physical values, and what it does to images.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
NONE = 0
"""The severity that changes nothing."""
CLEAN = "none"
"""Name in tables of images without a corruption."""
PIXELS = "pixels"


class Corruption(ABC):
    """A natural change of images, which leaves a normal thing normal.

    Attributes:
        title: name in sentences.
        does: what it does to a pixel or an image, and what is drawn for each image.
        values: its strength at severities 1 to 5, in ``unit``; in per cent of the shorter side if the unit is pixels,
            so that small and large images are changed alike.
        unit: what the strength counts.
        form: how a strength is written, ``{}`` being its number.
        neutral: the strength at which nothing changes.
        channels: numbers of channels that an image may have; empty: any.
    """

    title: ClassVar[str]
    does: ClassVar[str]
    values: ClassVar[tuple[float, float, float, float, float]]
    unit: ClassVar[str]
    form: ClassVar[str]
    neutral: ClassVar[float] = 0.0
    channels: ClassVar[tuple[int, ...]] = ()

    @classmethod
    def value(cls, severity: int, side: int) -> float:
        """Return the strength of a severity, from 0 (none), on images whose shorter side has so many pixels.

        >>> from puzzle_study.corruptions.registry import CORRUPTIONS
        >>> CORRUPTIONS["shift"].value(5, side=100)
        15.0
        """
        if severity == NONE:
            return cls.neutral
        value = cls.values[severity - 1]
        return value * side / 100 if cls.unit == PIXELS else value

    @classmethod
    def written(cls, value: float) -> str:
        """Return a strength as people write it, with two digits of its distance from neutral."""
        distance = abs(value - cls.neutral)
        decimals = max(0, 1 - math.floor(math.log10(distance))) if distance else 0
        number = f"{value:.{decimals}f}"
        return cls.form.format(number.rstrip("0").rstrip(".") if "." in number else number)

    @classmethod
    @abstractmethod
    def apply(cls, x_NCHW: Tensor, value: float, generators: Sequence[torch.Generator]) -> Tensor:
        """Return corrupted images.

        Args:
            x_NCHW: in [0, 1]; must not be changed.
            value: strength in :attr:`unit`.
            generators: one an image, on the CPU; the same ones at every severity.

        Returns:
            [N, C, H, W]; what leaves [0, 1] is clipped by the caller.
        """


def drawn(
    generators: Sequence[torch.Generator], draw: Callable[[torch.Generator], Tensor], device: torch.device | str = "cpu"
) -> Tensor:
    """Return what each image draws, stacked, on a device: the same numbers on every device."""
    import torch

    return torch.stack([draw(generator) for generator in generators]).to(device)
