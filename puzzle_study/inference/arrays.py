"""Checks images given as arrays or tensors, and converts them.

Shape legend: N images, C channels, H and W pixels, D = C·H·W features of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from puzzle_study.detectors.base import LEAST_SIDE, MOST_CHANNELS, Detector

AT_ONCE = 1024
PIXELS = "pixels must be uint8, or floats in [0, 1]"
Shape = tuple[int, int, int]
Floats = npt.NDArray[np.float64]


def is_image_array(images: Any) -> bool:
    """Whether this is an array or tensor of images instead of rows."""
    return isinstance(images, (np.ndarray, Tensor)) and images.ndim in (3, 4)


def with_channels(images: Any) -> Any:
    """Return [N, H, W] as [N, 1, H, W], and [N, C, H, W] unchanged."""
    return images[:, None] if images.ndim == 3 else images


def row_shape(features: int, image_shape: Shape | None) -> Shape:
    """Return the (C, H, W) of rows of pixels: as given, or a square with one channel.

    Raises:
        ValueError: the number of features does not fit.
    """
    if image_shape is not None:
        if math.prod(image_shape) != features:
            raise ValueError(f"image_shape {tuple(image_shape)} has {math.prod(image_shape)} pixels, X has {features}")
        return image_shape
    side = math.isqrt(features)
    if side * side != features or side < LEAST_SIDE:
        raise ValueError(
            f"rows with n_features = {features} are not square images of one channel with at least "
            f"{LEAST_SIDE}×{LEAST_SIDE} pixels; set image_shape=(C, H, W), or give "
            f"images [N, C, H, W] or [N, H, W]"
        )
    return (1, side, side)


def check_shape(shape: Shape) -> None:
    """Refuse images that the network cannot read.

    Raises:
        ValueError: less than 16 pixels a side, no channel, or more channels than a saved detector may have.
    """
    channels, height, width = shape
    if min(height, width) < LEAST_SIDE or channels < 1:
        last = " ([N, H, W, C] is not supported: move the channels to the front)" if width in (1, 3, 4) else ""
        raise ValueError(
            f"images must have at least {LEAST_SIDE}×{LEAST_SIDE} pixels, got shape (C, H, W) = {shape}{last}; "
            f"enlarge them first"
        )
    if channels > MOST_CHANNELS:
        raise ValueError(f"images must have at most {MOST_CHANNELS} channels, got shape (C, H, W) = {shape}")


def batches(images: Any) -> Iterator[Tensor]:
    """Yield images [N, C, H, W], an array or tensor, as uint8 or float32 tensors of at most 1024 images.

    Raises:
        ValueError: pixels are neither uint8 nor floats in [0, 1].
    """
    for start in range(0, len(images), AT_ONCE):
        yield _pixels(images[start : start + AT_ONCE])


def anomaly_scores(detector: Detector, images: Any) -> Floats:
    """Return the score of each image [N, C, H, W] as float64 [N]; ValueError as in :func:`batches`."""
    parts = [detector.error_matrix(part) for part in batches(images)]
    return np.concatenate([detector.scores(error_NK).double().cpu().numpy() for error_NK in parts])


def _pixels(images_NCHW: Any) -> Tensor:
    pixels = images_NCHW.detach() if isinstance(images_NCHW, Tensor) else _from_array(images_NCHW)
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise ValueError(f"{PIXELS}, got {pixels.dtype}")
    pixels = pixels.float()
    low, high = (float(bound) for bound in pixels.aminmax())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"float pixels must be finite and in [0, 1], got {low:g} to {high:g}; divide by their maximum")
    return pixels


def _from_array(images_NCHW: npt.NDArray[Any]) -> Tensor:
    """Wrap a batch, or copy it if it is read-only, because PyTorch would warn."""
    if images_NCHW.dtype.kind not in "uif":
        raise ValueError(f"{PIXELS}, got {images_NCHW.dtype}")
    batch = np.ascontiguousarray(images_NCHW, dtype=images_NCHW.dtype.newbyteorder("="))
    return torch.from_numpy(batch if batch.flags.writeable else batch.copy())
