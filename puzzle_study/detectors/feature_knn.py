"""Distance to the nearest training images in the features of a network trained on other images.

Differs from the paper in the network (there ResNet-152, here EfficientNet-Lite0 up to its last block) and in the
distance (there Euclidean, here between features of length one).

Shape legend: N images, M training images, D features, k neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import Reading, unit
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.devices import Precision
from puzzle_study.detectors.feature_networks import Network
from puzzle_study.detectors.features import FeatureDetector, FeatureSettings


class KNNSettings(FeatureSettings):
    """How features of images are compared."""

    neighbours: int = Field(
        2, ge=1, le=1000, json_schema_extra=unit("images"), description="Training images whose distances are averaged."
    )


class FeatureKNN(FeatureDetector):
    """An image's error is its mean cosine distance to the nearest training images, in pooled features."""

    name = "feature_knn"
    title = "kNN on features"
    source = "Bergman, Cohen, Hoshen 2020: Deep Nearest Neighbor Anomaly Detection"
    Settings = KNNSettings
    TAPS = (15,)
    MAPS = False

    train_MD: Tensor

    def __init__(
        self,
        network: Network,
        size: tuple[int, int],
        trained: tuple[int, int],
        neighbours: int,
        *,
        shape: Shape,
        reading: Reading,
        precision: Precision,
    ) -> None:
        super().__init__(network, size, shape=shape, reading=reading, precision=precision)
        self.neighbours = neighbours
        self.register_buffer("train_MD", torch.zeros(trained))

    @classmethod
    def build(cls, settings: KNNSettings, context: Context) -> Self:
        """Return a detector without training images."""
        network, size = cls.opened(settings, context)
        return cls(
            network,
            size,
            (0, 0),
            settings.neighbours,
            shape=context.shape,
            reading=settings.reading,
            precision=context.precision,
        ).to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Keep the features of the images."""
        (train_MD,) = self.training_features(images_NCHW)
        self.train_MD = train_MD.to(self.device)

    def compared(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return the last output, averaged over positions, at length one: [N, D]."""
        last = self.features(x_NCHW)[-1]
        return [F.normalize(last.mean((2, 3)) if last.ndim == 4 else last.flatten(1))]

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the distances, 1 − cosine, [N, 1]."""
        (feature_ND,) = self.compared(x_NCHW)
        with torch.no_grad():
            alike_NM = feature_ND @ self.train_MD.T
            nearest_Nk = alike_NM.topk(min(self.neighbours, len(self.train_MD))).indices
        # Computed again from differences, because the product cancels for close vectors.
        difference_NkD = feature_ND[:, None] - self.train_MD[nearest_Nk]
        return difference_NkD.square().sum(-1).mean(1, keepdim=True) / 2

    def describe(self) -> dict[str, Any]:
        """Return the network and the number of training images."""
        return super().describe() | {"trained": list(self.train_MD.shape), "neighbours": self.neighbours}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with room for the features."""
        images, features = (int(number) for number in described["trained"])
        neighbours = int(described["neighbours"])
        if neighbours < 1:
            raise ValueError(f"{neighbours} neighbours are impossible")
        network, size = cls.restored_network(described, shape)
        return cls(network, size, (images, features), neighbours, shape=shape, reading=reading, precision=precision)
