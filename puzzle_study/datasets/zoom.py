"""Zoom augmentation of small training sets (paper, section 4.1)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from puzzle_study.datasets.records import Bytes

SCALES = (1.05, 1.2)
"""The authors' range of magnification; the paper gives none. They magnify about the centre, by nearest neighbour."""


def augment(images_NCHW: Bytes, total: int, rng: np.random.Generator) -> Bytes:
    """Append magnified copies until there are ``total`` images: uint8 [max(N, total), C, H, W].

    All originals get the same number of copies, plus or minus one; each copy is magnified about its own random
    point. Sets that are large enough are returned unchanged.
    """
    missing = total - len(images_NCHW)
    if missing <= 0:
        return images_NCHW
    order = rng.permutation(len(images_NCHW))
    copies = [magnify(images_NCHW[order[number % len(order)]], rng) for number in range(missing)]
    return np.concatenate([images_NCHW, np.stack(copies)])


def magnify(image_CHW: Bytes, rng: np.random.Generator) -> Bytes:
    """Enlarge a random window of the image to its full size, bilinearly."""
    height, width = image_CHW.shape[1:]
    scale = rng.uniform(*SCALES)
    top, left = rng.uniform(0, height - height / scale), rng.uniform(0, width - width / scale)
    box = (left, top, left + width / scale, top + height / scale)
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR, box=box))
        for channel in np.ascontiguousarray(image_CHW)
    ]
    return np.stack(channels)
