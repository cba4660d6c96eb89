"""Patches of feature maps, and anomaly maps from their distances.

Shape legend: N images, D features, h and w positions, H and W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from puzzle_study.detectors import scoring
from puzzle_study.detectors.base import Traits
from puzzle_study.detectors.features import FeatureDetector

DEVIATION = 4 / 224
"""Width of the Gaussian that smooths anomaly maps, as a share of the longer side: the papers' 4 of 224 pixels."""


def joined(maps: Sequence[Tensor]) -> Tensor:
    """Return maps scaled to the largest one, with their features together: [N, D, h, w]."""
    size = max((tuple(features.shape[-2:]) for features in maps), key=lambda size: size[0] * size[1])
    return torch.cat(
        [
            features if tuple(features.shape[-2:]) == size else F.interpolate(features, size, mode="bilinear")
            for features in maps
        ],
        dim=1,
    )


def upsampled(distance_Nhw: Tensor, height: int, width: int) -> Tensor:
    """Return the positions' distances as a smooth map over the pixels, [N, H, W]."""
    map_N1HW = F.interpolate(distance_Nhw[:, None], (height, width), mode="bilinear")
    deviation = DEVIATION * max(height, width)
    reach = max(1, round(4 * deviation))
    at_R = torch.arange(-reach, reach + 1, device=map_N1HW.device, dtype=map_N1HW.dtype)
    weight_R = torch.softmax(-at_R.square() / (2 * deviation**2), 0)
    padded = F.pad(map_N1HW, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, weight_R[None, None, :, None]), weight_R[None, None, None])[:, 0]


class PatchDetector(FeatureDetector):
    """A detector on features that measures a distance at each position of an image."""

    traits = Traits(features=True, maps=True)

    @abstractmethod
    def distances(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return errors [N, 1] of images in [0, 1], and the distances at their positions as a map [N, h, w]."""

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the errors of images, [N, 1]."""
        return self.distances(x_NCHW)[0]

    @torch.no_grad()
    def maps(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the error matrix, and the distances upsampled to the image and smoothed, [N, H, W]."""
        self.eval()
        height, width = self.shape.height, self.shape.width
        error_N1 = torch.empty(len(images_NCHW), 1, device=self.device)
        map_NHW = torch.empty(len(images_NCHW), height, width, device=self.device)

        def work(part: slice, x_NCHW: Tensor) -> None:
            error_N1[part], distance_Nhw = self.distances(x_NCHW)
            map_NHW[part] = upsampled(distance_Nhw, height, width)

        self.by_chunks(images_NCHW, work)
        return error_N1, map_NHW / scoring.normalisation(self.validation_NK, "mse")
