"""Anomaly maps over images: where a detector finds the anomaly, yellow to red, and how much it matters.

Shape legend: H and W pixels of the detector's images, Y and X pixels of a picture.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from puzzle_study.datasets.images import decode
from puzzle_study.datasets.records import Sizing
from puzzle_study.errors import UserError
from puzzle_study.io import replacing

SIDE = 512
RED_AT = 4.0
STRONGEST = 0.8
YELLOW, RED = np.array([255.0, 220.0, 0.0]), np.array([220.0, 0.0, 0.0])

Map = npt.NDArray[np.float32]


def targets(paths: Sequence[Path], folder: Path, *, shared: Path | None = None) -> dict[Path, Path]:
    """Return the PNG file of each image's overlay: below ``folder``, with the image's path below their common folder.

    Args:
        paths: the images.
        folder: for the overlays.
        shared: the common folder of all images, including later ones; None: ``paths`` are all images.

    Raises:
        UserError: an image is in ``folder`` itself: an overlay would replace it or be scored the next time.
    """
    # A path with `..` would put its overlay outside the folder.
    absolute = {path: Path(os.path.normpath(path.absolute())) for path in paths}
    for path in paths:
        if folder.resolve() in path.resolve().parents:
            raise UserError(f"--overlay {folder} holds an image to be scored ({path}); choose another folder")
    top = shared or Path(os.path.commonpath([place.parent for place in absolute.values()]))
    below = {path: place.relative_to(os.path.normpath(top.absolute())) for path, place in absolute.items()}
    named = Counter(place.with_suffix("") for place in below.values())
    # If images differ only in their suffix, it is kept: a.jpg.png beside a.bmp.png, which may come later.
    return {
        path: folder / (f"{place}.png" if shared or named[place.with_suffix("")] > 1 else place.with_suffix(".png"))
        for path, place in below.items()
    }


def write(path: Path, target: Path, map_HW: Map, *, size: tuple[int, int], threshold: float, squares: bool) -> None:
    """Write an image with its error map over it as PNG, in the image's proportions.

    The longer side has 512 pixels, or as many as the map's if that is larger.

    A pixel is unchanged if its error is at most that of an image at the threshold. Otherwise it turns yellow, and
    red at four times this error. The scale is the same for all images of a detector.

    Args:
        path: the image file.
        target: the PNG file.
        map_HW: see :meth:`puzzle_study.detectors.base.Detector.maps`.
        size: the image's own width and height.
        threshold: the score above which an image is flagged.
        squares: whether the map has squared errors (norm ``mse``).

    Raises:
        UserError: the image cannot be read, or the file cannot be written.
    """
    side = max(SIDE, *map_HW.shape)
    shape = tuple(max(1, round(side * pixels / max(size))) for pixels in size)
    square = Image.fromarray(decode(path, Sizing(size=side, channels=3)).transpose(1, 2, 0))
    picture_YX3 = np.asarray(square.resize(shape, Image.Resampling.BILINEAR), np.float32)
    relative_HW = map_HW / max(threshold, float(np.finfo(np.float32).tiny))
    heat = Image.fromarray(np.sqrt(relative_HW) if squares else relative_HW)
    relative_YX = np.asarray(heat.resize(shape, Image.Resampling.BILINEAR))
    strength_YX1 = np.clip((relative_YX - 1) / (RED_AT - 1), 0, 1)[..., None]
    colour = YELLOW + (RED - YELLOW) * strength_YX1
    opacity = STRONGEST * np.sqrt(strength_YX1)
    mixed = ((1 - opacity) * picture_YX3 + opacity * colour).round().astype(np.uint8)
    try:
        with replacing(target) as temporary:
            Image.fromarray(mixed).save(temporary, format="PNG")
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}); choose another --overlay") from error
