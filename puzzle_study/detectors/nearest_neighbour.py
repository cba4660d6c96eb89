"""Distance to the nearest training image, pixel by pixel.

Shape legend: N images, M training images, D = C·H·W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import DetectorSettings, Reading
from puzzle_study.detectors.base import Context, Detector, Run, Shape, to_float
from puzzle_study.detectors.devices import Precision

NUMBERS_AT_ONCE = 2**26
"""Most differences between images and training images in memory at once."""


class NearestNeighbour(Detector):
    """The error of an image is its Euclidean distance to the nearest training image."""

    name = "nearest_neighbour"
    title = "nearest neighbour"
    source = "Cover and Hart 1967, on pixels"

    train_MD: Tensor

    def __init__(self, images: int, *, shape: Shape, reading: Reading, precision: Precision = "float32") -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        pixels = shape.channels * shape.height * shape.width
        self.register_buffer("train_MD", torch.zeros(images, pixels, dtype=torch.uint8))

    @classmethod
    def build(cls, settings: DetectorSettings, context: Context) -> Self:
        """Return a detector without training images."""
        return cls(0, shape=context.shape, reading=settings.reading).to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Keep the images."""
        self.train_MD = images_NCHW.flatten(1)

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the distances, [N, 1]."""
        x_ND, train_MD = x_NCHW.flatten(1), to_float(self.train_MD)
        with torch.no_grad():
            nearest_N = torch.cdist(x_ND, train_MD, compute_mode="use_mm_for_euclid_dist").argmin(1)
        # Computed again from differences, because the fast product that finds the nearest cancels for close images.
        distance_N1: Tensor = torch.linalg.vector_norm(x_ND - train_MD[nearest_N], dim=1, keepdim=True)
        return distance_N1

    def views_at_once(self) -> int:
        """Return how many images fit into memory with their distances and differences."""
        return max(1, NUMBERS_AT_ONCE // max(self.train_MD.shape))

    def describe(self) -> dict[str, Any]:
        """Return the number of training images."""
        return {"images": len(self.train_MD)}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with room for the training images."""
        return cls(int(described["images"]), shape=shape, reading=reading)
