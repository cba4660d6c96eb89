"""Sizes of training images before scaling, and whether other images are far from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from puzzle_study.datasets.images import upright_size

MOST_SIDE = 2.0
"""Largest factor in side √(width · height) from all training images."""
MOST_ASPECT = 1.25
"""Largest factor in width / height from all training images."""


@dataclass(frozen=True)
class OriginalSizes:
    """Lowest and highest side √(width · height), in pixels, and width / height of image files."""

    side: tuple[float, float]
    aspect: tuple[float, float]

    @staticmethod
    def of(paths: Sequence[Path]) -> OriginalSizes | None:
        """Read the headers of image files; None without files."""
        if not paths:
            return None
        sizes = [upright_size(path) for path in paths]
        sides = [math.sqrt(width * height) for width, height in sizes]
        aspects = [width / height for width, height in sizes]
        return OriginalSizes((min(sides), max(sides)), (min(aspects), max(aspects)))

    @staticmethod
    def from_json(content: Any) -> OriginalSizes | None:
        """Return the sizes that ``asdict`` wrote, or None."""
        return None if content is None else OriginalSizes(**content)

    def is_far(self, width: int, height: int) -> bool:
        """Whether an image's side is beyond a factor of 2, or its width / height beyond 1.25, of all of these."""
        return _beyond(math.sqrt(width * height), self.side, MOST_SIDE) or _beyond(
            width / height, self.aspect, MOST_ASPECT
        )

    def __str__(self) -> str:
        (low, high), (narrow, wide) = self.side, self.aspect
        return f"sides of {low:.0f} to {high:.0f} pixels (√(width · height)), width / height {narrow:.2f} to {wide:.2f}"


def _beyond(value: float, ends: tuple[float, float], factor: float) -> bool:
    return not ends[0] / factor <= value <= ends[1] * factor
