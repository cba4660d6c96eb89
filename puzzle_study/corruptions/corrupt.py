"""Corrupts images: seeded, in batches on their device, rounded to the 8 bits that a camera delivers."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from puzzle_study.corruptions.base import NONE, SEVERITIES
from puzzle_study.corruptions.registry import CORRUPTIONS, misfit
from puzzle_study.errors import UserError

VALUES_AT_ONCE = 2**24
"""Pixel values in memory together; 64 MiB in each of a few copies."""


def corrupt(images_NCHW: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Return images with one corruption.

    What an image draws (a direction, noise, a place) depends on the seed, the corruption and its number among the
    images: not on the severity, the device or the other images.

    Args:
        images_NCHW: uint8, or floats in [0, 1]; any height and width, on any device.
        kind: name of a corruption (:data:`puzzle_study.corruptions.registry.CORRUPTIONS`).
        severity: 1 to 5; 0 changes nothing.
        seed: of everything that is drawn.

    Returns:
        uint8 [N, C, H, W] on the same device: clipped to [0, 1] and rounded to 8 bits, since that is what a camera or
        a file hands on. A change of less than half a grey level is lost, as it would be there.

    Raises:
        UserError: there is no such corruption or severity, or it needs images with another number of channels.
    """
    corruption = CORRUPTIONS[kind]
    if severity not in (NONE, *SEVERITIES):
        raise UserError(f"there is no severity {severity} of {kind}; there are 0 (none) and 1 to {SEVERITIES[-1]}")
    if (problem := misfit(kind, images_NCHW.shape[1])) is not None:
        raise UserError(f"{problem}; leave it out")
    if severity == NONE or not len(images_NCHW):
        return _eight_bits(images_NCHW)
    side = min(images_NCHW.shape[2:])
    states = np.random.SeedSequence((seed, zlib.crc32(kind.encode()))).generate_state(len(images_NCHW), np.uint64)
    generators = [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]
    at_once = max(1, VALUES_AT_ONCE // images_NCHW[0].numel())
    parts = []
    for start in range(0, len(images_NCHW), at_once):
        part = slice(start, start + at_once)
        x_NCHW = _unit(images_NCHW[part])
        parts.append(_eight_bits(corruption.apply(x_NCHW, corruption.value(severity, side), generators[part])))
    return torch.cat(parts)


def _unit(images_NCHW: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return images_NCHW.float() / 255 if images_NCHW.dtype == torch.uint8 else images_NCHW.float()


def _eight_bits(x_NCHW: Tensor) -> Tensor:
    """Return images in [0, 1] as uint8."""
    return x_NCHW if x_NCHW.dtype == torch.uint8 else x_NCHW.clamp(0, 1).mul(255).round().byte()
