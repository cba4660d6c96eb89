"""Patches of feature maps, and anomaly maps made of their distances.

Shape legend: N images, D features, h and w positions, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from puzzle_study.detectors import scoring
from puzzle_study.detectors.base import Detector

DEVIATION = 4 / 224
"""Of the Gaussian that smooths anomaly maps, as a share of the longer side: the papers' 4 of 224 pixels."""


def joined(maps: Sequence[Tensor]) -> Tensor:
    """Return maps scaled to the largest of them, their features together: [N, D, h, w]."""
    size = max((tuple(features.shape[-2:]) for features in maps), key=lambda size: size[0] * size[1])
    return torch.cat(
        [
            features if tuple(features.shape[-2:]) == size else F.interpolate(features, size, mode="bilinear")
            for features in maps
        ],
        dim=1,
    )


def upsampled(distance_Nhw: Tensor, height: int, width: int) -> Tensor:
    """Return distances of positions as a smooth map over the pixels, [N, H, W]."""
    map_N1HW = F.interpolate(distance_Nhw[:, None], (height, width), mode="bilinear")
    deviation = DEVIATION * max(height, width)
    reach = max(1, round(4 * deviation))
    at_R = torch.arange(-reach, reach + 1, device=map_N1HW.device, dtype=map_N1HW.dtype)
    weight_R = torch.softmax(-at_R.square() / (2 * deviation**2), 0)
    padded = F.pad(map_N1HW, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, weight_R[None, None, :, None]), weight_R[None, None, None])[:, 0]


def measured(
    detector: Detector, images_NCHW: Tensor, distances: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the error matrix [N, 1] of images and their anomaly maps [N, H, W], in units of the score.

    Args:
        detector: a calibrated one.
        images_NCHW: uint8, or floats in [0, 1].
        distances: returns errors [N, 1] and distances [N, h, w] of images in [0, 1].
    """
    height, width = detector.shape.height, detector.shape.width
    error_N1 = torch.empty(len(images_NCHW), 1, device=detector.device)
    map_NHW = torch.empty(len(images_NCHW), height, width, device=detector.device)

    def work(part: slice, x_NCHW: Tensor) -> None:
        error_N1[part], distance_Nhw = distances(x_NCHW)
        map_NHW[part] = upsampled(distance_Nhw, height, width)

    detector.by_chunks(images_NCHW, work)
    return error_N1, map_NHW / scoring.normalisation(detector.validation_NK, "mse")
