"""PaDiM: a Gaussian of features for each position of the image.

Differs from the paper in the network, and so in the maps: EfficientNet-Lite0's at a quarter, an eighth and a sixteenth
of the image's side. Maps are scaled to the first by bilinear interpolation, and their smoothing scales with the
image.

Shape legend: N images, P positions, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import Reading, unit
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.devices import Precision
from puzzle_study.detectors.feature_networks import Network
from puzzle_study.detectors.features import FeatureSettings
from puzzle_study.detectors.patches import PatchDetector, joined, upsampled

RIDGE = 0.01
"""Added to the variances, so that there may be fewer images than features."""


class PaDiMSettings(FeatureSettings):
    """Number of features in the Gaussians."""

    LARGE: ClassVar[tuple[str, ...]] = ("channels", "input_size")

    channels: int = Field(
        100,
        ge=1,
        le=2000,
        json_schema_extra=unit("channels"),
        description="Features drawn at random from all maps; a saved detector grows with their square.",
    )


class PaDiM(PatchDetector):
    """An image's error is the largest value of its smoothed map of Mahalanobis distances."""

    name = "padim"
    title = "PaDiM"
    source = "Defard, Setkov, Loesch, Audigier 2021: PaDiM: a Patch Distribution Modeling Framework"
    Settings = PaDiMSettings
    TAPS = (2, 4, 10)

    drawn_D: Tensor
    mean_DP: Tensor
    whitening_PDD: Tensor

    def __init__(
        self,
        network: Network,
        size: tuple[int, int],
        gaussians: tuple[int, int],
        *,
        shape: Shape,
        reading: Reading,
        precision: Precision,
    ) -> None:
        super().__init__(network, size, shape=shape, reading=reading, precision=precision)
        positions, features = gaussians
        self.register_buffer("drawn_D", torch.zeros(features, dtype=torch.int64))
        self.register_buffer("mean_DP", torch.zeros(features, positions))
        self.register_buffer("whitening_PDD", torch.zeros(positions, features, features))
        self._channels, self._seed = features, 0

    @classmethod
    def build(cls, settings: PaDiMSettings, context: Context) -> Self:
        """Return a detector without Gaussians."""
        network, size = cls.opened(settings, context)
        detector = cls(
            network, size, (0, 0), shape=context.shape, reading=settings.reading, precision=context.precision
        ).to(context.device)
        detector._channels, detector._seed = settings.channels, context.seed
        return detector

    @torch.no_grad()
    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Measure the Gaussians, in two passes over the features."""
        maps = self.training_features(images_NCHW)
        there = sum(features.shape[1] for features in maps)
        drawn_D = torch.randperm(there, generator=torch.Generator().manual_seed(self._seed))[: self._channels]
        self.drawn_D = drawn_D.sort().values.to(self.device)
        count, chunk = len(images_NCHW), self.views_at_once()

        def parts() -> Iterator[Tensor]:
            for start in range(0, count, chunk):
                yield self._drawn([features[start : start + chunk].to(self.device) for features in maps]).double()

        mean_DP = torch.stack([part_NDP.sum(0) for part_NDP in parts()]).sum(0) / count
        features, positions = mean_DP.shape
        scatter_PDD = RIDGE * torch.eye(features, device=self.device, dtype=torch.float64).repeat(positions, 1, 1)
        for part_NDP in parts():
            centred_PDN = (part_NDP - mean_DP).permute(2, 1, 0) / max(1, count - 1) ** 0.5
            scatter_PDD.baddbmm_(centred_PDN, centred_PDN.transpose(1, 2))
        lower_PDD = torch.linalg.cholesky(scatter_PDD)
        one_PDD = torch.eye(features, device=self.device, dtype=torch.float64).expand_as(lower_PDD)
        self.whitening_PDD = torch.linalg.solve_triangular(lower_PDD, one_PDD, upper=False).float()
        self.mean_DP = mean_DP.float()

    def _drawn(self, maps: list[Tensor]) -> Tensor:
        """Return the drawn features of all positions, [N, D, P]."""
        return joined(maps).index_select(1, self.drawn_D).flatten(2)

    def distances(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return images' errors [N, 1], and the distances at their positions as a map [N, h, w]."""
        maps = self.features(x_NCHW)
        centred_PDN = (self._drawn(maps) - self.mean_DP).permute(2, 1, 0)
        distance_PN = torch.linalg.vector_norm(torch.bmm(self.whitening_PDD, centred_PDN), dim=1)
        height = max(features.shape[-2] for features in maps)
        distance_Nhw = distance_PN.T.unflatten(1, (height, -1))
        map_NHW = upsampled(distance_Nhw, self.shape.height, self.shape.width)
        return map_NHW.flatten(1).amax(1, keepdim=True), distance_Nhw

    def describe(self) -> dict[str, Any]:
        """Return the network and the size of the Gaussians."""
        features, positions = self.mean_DP.shape
        return super().describe() | {"gaussians": [positions, features]}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with room for the Gaussians."""
        positions, features = (int(number) for number in described["gaussians"])
        network, size = cls.restored_network(described, shape)
        return cls(network, size, (positions, features), shape=shape, reading=reading, precision=precision)
